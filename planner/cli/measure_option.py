"""The option ``--measure``: the devices of this machine, measured and kept."""

import json
import os
import sys
from pathlib import Path

from msgspec import to_builtins
from rich.console import Console

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.printable import print_text, shown_on_one_line
from planner.hardware.cluster import Cluster
from planner.hardware.detect import detect, read_cpu
from planner.hardware.measured.measurement import Measurement
from planner.measurement.measure import measure
from planner.report.measured_words import measured_words

BUSY_FROM = 0.25
"""Share of the processor that other programs use from which they are named."""


def measure_here(console: Console, spec: str, *, as_json: bool) -> None:
    """Measure what ``--gpus`` names of this machine, and print the rates and where they are kept.

    Raise ``InvalidRequestError`` where it names another machine.
    """
    if spec not in ("auto", "cpu"):
        raise InvalidRequestError(
            Phrase(
                "--measure cannot be combined with --gpus {spec}: it measures this machine, "
                "so leave --gpus out, or write --gpus cpu",
                spec=spec,
            )
        )
    cluster = read_cpu() if spec == "cpu" else detect(os.environ)
    _warn_if_busy(cluster)
    measurement, file = measure(cluster, Path())
    if as_json:
        print(json.dumps(to_builtins(measurement), indent=2))
        return
    for line in measured_lines(measurement, file):
        console.print(shown_on_one_line(line))


def _warn_if_busy(cluster: Cluster) -> None:
    """Say that other programs use the processor, where they use a quarter of it or more: what is
    measured beside them is too slow."""
    load, _, _ = os.getloadavg()
    if load >= BUSY_FROM * (cluster.cores or 1):
        print_text(
            Phrase(
                "note: other programs keep {load:.1f} cores busy: the rates will be too low. "
                "Measure again when the machine is idle",
                load=load,
            ),
            file=sys.stderr,
        )


def measured_lines(measurement: Measurement, file: Path | None) -> list[str]:
    """Return a line with the rates, and one with the file that keeps them."""
    words = measured_words(measurement)
    rates = ", ".join(f"{name.replace('_', ' ')} {rate}" for name, rate in words.items())
    kept = (
        Phrase("not kept: TUNEPLAN_DATA is none")
        if file is None
        else Phrase("kept in {file}", file=file)
    )
    return [f"{measurement.device_name}: {rates}", kept]
