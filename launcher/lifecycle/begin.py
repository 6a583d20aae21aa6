"""What comes before a run: whether it may begin in its folder, or what it goes on from."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.data.sources import check_named
from launcher.lifecycle.execution import Company, execute
from launcher.lifecycle.preflight import needed_disk_bytes, require_packages, suited
from launcher.lifecycle.record import write_record
from launcher.lifecycle.resume import check_nothing_to_resume, interrupted_plan, saved_state
from launcher.run.checkpoints import SavedState
from launcher.run.run_directory import RunDirectory, check_may_run_in, create, locked
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Of ``launch``'s options, those that say how a run begins."""

    resume: bool = False
    begin_or_resume: bool = False
    """Of a job that its engine starts again by the same command."""
    max_restarts: int = 0
    record: bool = False
    shown_samples: int = 1
    """Number of samples to show as they are learnt before training."""

    def goes_on(self, run: RunDirectory) -> bool:
        return self.resume or (self.begin_or_resume and run.plan.is_file())

    def is_had(self, run: RunDirectory) -> bool:
        """The engine has started a finished run again."""
        return self.begin_or_resume and run.report.is_file()


def train(plan: Plan, directory: Path, wanted: Wanted) -> int:
    """The exit code; what can be known to fail is found before anything is written."""
    if is_done(directory, wanted):
        return 0
    if not wanted.goes_on(RunDirectory(directory)):
        check_named(plan.data)
    check_may_run_in(directory)
    require_packages(plan)
    run = create(directory, needed_bytes=needed_disk_bytes(plan))
    with locked(run):
        plan, saved, lines = begun(plan, run, goes_on=wanted.goes_on(run))
        plan, notes = suited(plan)
        tell([*notes, *lines])
        code = execute(
            plan,
            run,
            saved,
            Company(max_restarts=wanted.max_restarts, shown_samples=wanted.shown_samples),
        )
    if wanted.record and code == 0:
        print(f"recorded: {write_record(run)}")
    return code


def is_done(directory: Path, wanted: Wanted) -> bool:
    """Whether a job was started again that had finished."""
    done = wanted.begin_or_resume and RunDirectory(directory).report.exists()
    if done:
        tell([f"{directory} holds the finished run already"])
    return done


def begun(
    plan: Plan, run: RunDirectory, *, goes_on: bool
) -> tuple[Plan, SavedState | None, list[str]]:
    """The plan that runs and the checkpoint it goes on from, and lines that say so."""
    if not goes_on:
        check_nothing_to_resume(run)
        return plan, None, []
    running = interrupted_plan(plan, run)
    saved, passed_over = saved_state(running, run)
    since = "the beginning: nothing is saved" if saved is None else f"step {saved.step}"
    return running, saved, [*passed_over, f"going on from {since}"]


def tell(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)
