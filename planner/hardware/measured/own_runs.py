"""Records of runs on this machine: what was predicted of each, and what was measured.

``launch`` leaves one per finished run in the user's data folder. A record names the card, the
software and the layout, and nothing of the data, the files or the person.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from planner.hardware.cluster import Cluster
from planner.hardware.machine_readings import OwnRun, TorchReading
from planner.hardware.measured.data_folder import keep_record, kept_records

FOLDER = "runs"
MOST_READ = 32
"""Records that are read, the newest: reading all of years would slow every plan."""


def kept_runs() -> list[OwnRun]:
    """Return the newest records, oldest first; a file of another format is left out."""
    return [run for _, run in kept_records(OwnRun, FOLDER, newest=MOST_READ)]


def runs_here(torch: TorchReading | None) -> tuple[OwnRun, ...]:
    """Return those that were made with the installed PyTorch."""
    if torch is None:
        return ()
    return tuple(run for run in kept_runs() if run.torch == torch.version)


def keep_run(run: OwnRun) -> Path | None:
    """Write a record whole; return its file, None if nothing is to be kept."""
    name = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}--{os.urandom(4).hex()}"
    return keep_record(run, FOLDER, name)


def rates_source(cluster: Cluster) -> str | None:
    """Return the day on which the cluster's rates were measured; None for those of a datasheet."""
    measured = cluster.accelerator.measured
    return None if measured is None else measured.measured_on


def time_ratios(cluster: Cluster, *, method: str, sharded: bool) -> tuple[float, ...]:
    """Return measured over predicted step times of own runs that the same rates predicted, of a
    method, alone or together, with sharded states or without."""
    alike = _alike(cluster, method)
    return tuple(
        run.measured_step_s / run.predicted_step_s
        for run in alike
        if run.predicted_step_s is not None
        and run.rates == rates_source(cluster)
        and (run.world_size > 1, run.sharded) == (cluster.world_size > 1, sharded)
    )


def memory_ratios(cluster: Cluster, *, method: str) -> tuple[float, ...]:
    """Return measured over predicted peaks of tensors of own runs of a method."""
    return tuple(
        run.measured_bytes / run.predicted_bytes
        for run in _alike(cluster, method)
        if run.measured_bytes is not None
    )


def _alike(cluster: Cluster, method: str) -> Iterable[OwnRun]:
    name = cluster.accelerator.device_name
    return (run for run in cluster.runs if run.device_name == name and run.method == method)
