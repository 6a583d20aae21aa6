"""Measurements that are kept in the user's data folder, one file per device, software and number of
ranks."""

import re
from collections.abc import Iterable
from pathlib import Path

from planner.hardware.machine_readings import TorchReading
from planner.hardware.measured.data_folder import keep_record, kept_records
from planner.hardware.measured.measurement import Measurement

FOLDER = "measurements"


def kept_measurements() -> list[tuple[Path, Measurement]]:
    """Return all kept measurements with their files, by name; a file of another format is left
    out."""
    return kept_records(Measurement, FOLDER)


def measurements_here(torch: TorchReading | None) -> tuple[Measurement, ...]:
    """Return those that were made with the installed PyTorch."""
    if torch is None:
        return ()
    return tuple(kept for _, kept in kept_measurements() if kept.torch == torch.version)


def measurement_for(
    measurements: Iterable[Measurement], *, device_name: str, ranks: int, cores: int | None = None
) -> Measurement | None:
    """Return the measurement of a device; of several, that over as many ranks, else the latest.

    ``cores`` are those of a processor, whose ranks share them: then both have to be the same.
    """
    fitting = [
        each
        for each in measurements
        if each.device_name == device_name
        and (cores is None or (each.ranks, each.cores) == (ranks, cores))
    ]
    return max(fitting, key=lambda each: (each.ranks == ranks, each.measured_on), default=None)


def keep(measurement: Measurement) -> Path | None:
    """Write a measurement whole, in the place of an earlier one of the same; return the file, None
    if nothing is to be kept."""
    return keep_record(measurement, FOLDER, _name(measurement))


def _name(measurement: Measurement) -> str:
    device = re.sub(r"[^a-z0-9.]+", "-", measurement.device_name.lower()).strip("-")
    return f"{device}--{measurement.ranks}--torch-{measurement.torch}"
