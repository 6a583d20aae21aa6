"""Resident memory of CPU runs beyond the predicted tensors, as presets/overheads.yaml has it:
python -m benchmarks.measure.resident

The runs are those of ``benchmarks.measure --device cpu --matrix matrix-resident.yaml`` and of
``launch --record``. With ``MALLOC_MMAP_THRESHOLD_=65536`` before either glibc maps every tensor
apart and keeps none, so that what is left is what libraries add: those are in a folder of their
own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.measure.results import RESULTS
from planner.base.units import MIB
from planner.hardware.cluster import PROCESS_BYTES

MAPPED = RESULTS.with_name("measured-mapped")
"""Runs in which glibc maps every tensor apart."""


class Reading(NamedTuple):
    """Bytes of one run on the CPU."""

    predicted_bytes: int
    """Peak of the tensors."""
    resident_bytes: int
    """Peak of the process."""

    @property
    def libraries_mib(self) -> int:
        """MiB beyond the tensors and the process as it is before its model."""
        beyond = self.resident_bytes - PROCESS_BYTES - self.predicted_bytes
        return round(beyond / MIB)

    def over_allocated(self, libraries_mib: float) -> float:
        """Return what the process holds for its tensors over what they take."""
        held = self.resident_bytes - PROCESS_BYTES - libraries_mib * MIB
        return held / self.predicted_bytes


def readings(directory: Path) -> list[Reading]:
    """Return those of a folder of results."""
    documents = (json.loads(path.read_text()) for path in sorted(directory.glob("*.json")))
    return [*_on_cpu(documents)]


def _on_cpu(documents: Iterator[dict[str, Any]]) -> Iterator[Reading]:
    for document in documents:
        plan, measured = document["run"]["plan"], document["measured"]
        if plan["hardware"]["device"] == "cpu" and measured["status"] == "ok":
            yield Reading(document["predicted"]["allocated"], measured["peak_resident_bytes"])


def main() -> None:
    libraries = sorted(each.libraries_mib for each in readings(MAPPED))
    print(f"libraries_mib: {libraries[0]}, {median(libraries):.0f}, {libraries[-1]}")
    beside = median(libraries)
    ratios = sorted(each.over_allocated(beside) for each in readings(RESULTS))
    low, high = ratios[0], ratios[-1]
    print(f"resident_over_allocated: {low:.2f}, {median(ratios):.2f}, {high:.2f} ({len(ratios)})")


if __name__ == "__main__":
    main()
