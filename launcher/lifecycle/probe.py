"""A probe: a few real steps of the longest batch, which leave a record and nothing else."""

import tempfile
from pathlib import Path

from msgspec import structs

from planner.plan.schema import Plan

WARM_UP = 1
"""Steps before those that are timed: the first one sets up."""


def probe_of(plan: Plan, steps: int) -> Plan:
    """Return the plan of a probe: so many timed steps, no evaluation, checkpoint or tracker."""
    training = structs.replace(
        plan.training,
        epochs=None,
        max_steps=steps + WARM_UP,
        save_steps=steps + WARM_UP,
        logging_steps=1,
        evaluation=None,
        report_to=(),
    )
    data = structs.replace(plan.data, validation_fraction=0.0)
    return structs.replace(plan, training=training, data=data)


def probe_folder(directory: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for a probe on the disk of the run directory; it goes with the probe."""
    place = next(folder for folder in directory.absolute().parents if folder.is_dir())
    return tempfile.TemporaryDirectory(prefix=".probe-", dir=place)
