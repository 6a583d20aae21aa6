"""Predicted against measured memory phase by phase, from snapshots of a first step."""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.express import timeline
from benchmarks.accuracy.predict import set_aside
from benchmarks.accuracy.timeline import Mark
from benchmarks.errors import relative_error
from benchmarks.rows import Row
from planner.base.units import GIB, MIB

STAGES = Path(__file__).parent.parent / "published" / "stage_memory.csv"
SOURCE = "canift"
"""Source of the snapshots, whose rows hold the settings."""
MARKS: dict[str, Mark] = {
    "after_load": "load",
    "after_lora_attach": "adapters",
    "after_first_forward": "forward",
    "after_first_backward": "backward",
    "after_first_optimizer_step": "optimizer step",
}
ALLOCATED, PEAK = "allocated after it", "largest until then"
NOTED = "largest within it"
NOTED_PEAKS = re.compile(r"peaks fwd/bwd/opt=(\d+)/(\d+)/(\d+)")
NOTED_MARKS: tuple[Mark, ...] = ("forward", "backward", "update")
Key = tuple[Mark, str]


def phase_errors(rows: Sequence[Row]) -> dict[Key, list[float]]:
    """Return signed relative errors by phase, of the bytes allocated after it and of the peak until
    then."""
    found: dict[Key, list[float]] = defaultdict(list)
    runs = {_settings(row): row for row in rows if row.source == SOURCE}
    for settings, snapshots in _measured().items():
        row = runs.get(settings)
        if row is None:
            continue
        predicted = timeline(row).snapshots()
        for mark, line in snapshots.items():
            ours = predicted[mark]
            for what, size, column in (
                (ALLOCATED, ours.allocated_bytes, "allocated_gb"),
                (PEAK, ours.peak_allocated_bytes, "max_allocated_gb"),
            ):
                measured = float(line[column]) * GIB
                error = relative_error(predicted=size, measured=measured)
                found[mark, what].append(error)
    for row in rows:
        for mark, error in _noted_errors(row):
            found[mark, NOTED].append(error)
    return dict(found)


def _noted_errors(row: Row) -> list[tuple[Mark, float]]:
    """Return the errors on the peaks of a later step that the row's notes give, phase by phase."""
    found = NOTED_PEAKS.search(row.notes)
    if found is None or set_aside(row) is not None:
        return []
    peaks = timeline(row).phase_peaks()
    return [
        (mark, relative_error(predicted=peaks[mark], measured=int(size) * MIB))
        for mark, size in zip(NOTED_MARKS, found.groups(), strict=True)
    ]


Settings = tuple[str, str, int, int, bool]


def _settings(row: Row) -> Settings:
    checkpointing = row.checkpointing == "yes"
    return row.model, row.method, row.micro_batch_size, row.sequence_length, checkpointing


def _measured() -> dict[Settings, dict[Mark, dict[str, str]]]:
    found: dict[Settings, dict[Mark, dict[str, str]]] = defaultdict(dict)
    with STAGES.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["stage"] in MARKS:
                settings = (
                    line["model"],
                    line["method"],
                    int(line["bs"]),
                    int(line["seq"]),
                    line["ckpt"] == "True",
                )
                found[settings][MARKS[line["stage"]]] = line
    return dict(found)
