"""The beginning of a run: whether it may use its folder, and what it resumes from."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.data.sources import check_named
from launcher.lifecycle.attempt_loop import Nodes, execute
from launcher.lifecycle.measured_run import write_record
from launcher.lifecycle.own_run import record_own_run
from launcher.lifecycle.preflight import fitted_here, needed_disk_bytes, require_software
from launcher.lifecycle.probe import probe_folder, probe_of
from launcher.lifecycle.resume import check_nothing_to_resume, interrupted_plan, saved_state
from launcher.run.checkpoints import SavedState
from launcher.run.run_directory import RunDirectory, check_may_run_in, create, locked
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """The options of ``launch`` that say how a run begins."""

    resume: bool = False
    """Whether to resume the run in the folder."""
    begin_or_resume: bool = False
    """Whether to resume a run only if there is one: an engine repeats the same command."""
    max_restarts: int = 0
    """How often the ranks are restarted after a failure or a failed node."""
    record: bool = False
    """Whether to leave a measured run for benchmarks/accuracy."""
    shown_samples: int = 1
    """Number of samples to show as they are learnt before training."""

    def resumes(self, run: RunDirectory) -> bool:
        """Return whether the run in this folder is resumed."""
        return self.resume or (self.begin_or_resume and run.plan.is_file())


def train(plan: Plan, directory: Path, start: StartOptions) -> int:
    """Run a plan on this machine and return the exit code.

    Raise ``UserError`` for what can be known to fail, before anything is written.
    """
    if has_finished(directory, start):
        return 0
    require_software(plan)
    if start.resumes(RunDirectory(directory)):
        interrupted_plan(plan, RunDirectory(directory))
    else:
        check_named(plan.data)
    check_may_run_in(directory)
    run = create(directory, needed_bytes=needed_disk_bytes(plan))
    with locked(run):
        plan, saved, lines = begin(plan, run, resumes=start.resumes(run))
        plan, notes = fitted_here(plan)
        tell([*notes, *lines])
        nodes = Nodes(max_restarts=start.max_restarts, shown_samples=start.shown_samples)
        code = execute(plan, run, saved, nodes)
    if code == 0:
        tell(record_own_run(run))
        if start.record:
            print_text(Phrase("recorded: {file}", file=write_record(run)))
    return code


def check_data_of(plan: Plan, *, elsewhere: bool = False) -> None:
    """Raise ``InvalidRequestError`` if files that a plan names are not here; it may name none.

    ``elsewhere`` says that the run is on machines with other disks.
    """
    if plan.data.every_source:
        check_named(plan.data, elsewhere=elsewhere)


def probe(plan: Plan, directory: Path, steps: int) -> int:
    """Make so many steps of a plan's longest batch, keep their record, and return the exit code.

    Raise ``InvalidRequestError`` for a plan of several nodes, which a probe does not start.
    """
    if plan.parallel.num_nodes > 1:
        raise InvalidRequestError(
            Phrase(
                "--probe runs on this machine alone, and the plan is for several nodes: plan "
                "one node with --nodes 1 and probe that"
            )
        )
    with probe_folder(directory) as folder:
        run = RunDirectory(Path(folder))
        run.lock.touch()
        run.probe.touch()
        return train(probe_of(plan, steps), run.path, StartOptions(shown_samples=0))


def has_finished(directory: Path, start: StartOptions) -> bool:
    """Return whether an engine has started a run again that had finished, and say so."""
    finished = start.begin_or_resume and RunDirectory(directory).report.exists()
    if finished:
        tell([Phrase("{directory} already holds the finished run", directory=directory)])
    return finished


def begin(
    plan: Plan, run: RunDirectory, *, resumes: bool
) -> tuple[Plan, SavedState | None, list[str]]:
    """Return the plan to run, the checkpoint to resume from, and lines that say so.

    Raise ``InvalidRequestError`` if the folder's run cannot be resumed, or has to be.
    """
    if not resumes:
        check_nothing_to_resume(run)
        return plan, None, []
    running = interrupted_plan(plan, run)
    saved, skipped = saved_state(running, run)
    since = (
        Phrase("the beginning: no checkpoint is saved")
        if saved is None
        else Phrase("step {step}", step=saved.step)
    )
    return running, saved, [*skipped, Phrase("resuming from {since}", since=since)]


def tell(notes: Sequence[str]) -> None:
    """Print lines to standard error."""
    for note in notes:
        print_text(note, file=sys.stderr)
