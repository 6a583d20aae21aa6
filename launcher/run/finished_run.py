"""A run that has finished, found by its directory or by the plan that was launched."""

import shlex
from pathlib import Path

from launcher.run.run_directory import RunDirectory, directory_of
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


def finished_run(path: Path) -> tuple[RunDirectory, Plan]:
    """Return the run directory that ``path`` is, or that the plan at ``path`` names, and its plan.

    Raise InvalidRequestError if no finished run is there.
    """
    if path.is_file():
        path = directory_of(read_spec(Plan, path))
    run = RunDirectory(path)
    if run.report.is_file() and run.plan.is_file():
        return run, read_spec(Plan, run.plan)
    raise InvalidRequestError(
        Phrase("{path} holds no finished run. {remedy}", path=path, remedy=_remedy(run))
    )


def _remedy(run: RunDirectory) -> str:
    if RunDirectory(run.path.parent).report.is_file():
        return Phrase("Name the run that it is a part of: {parent}", parent=run.path.parent)
    if not run.plan.is_file():
        return Phrase("Launch its plan first")
    command = ["launch", str(run.plan), "--output", str(run.path), "--resume"]
    return Phrase(
        "Its training has not ended: resume it with {command}", command=shlex.join(command)
    )
