"""How a run's training ended, and what a person is told of it."""

import sys
from dataclasses import dataclass

from launcher.compat.torch_text import ended_ranks
from launcher.display.closing_summary import (
    closing_lines,
    early_failure_lines,
    failure_lines,
    stack_lines,
    summary_table,
)
from launcher.display.console import console_on
from launcher.faults.failure import KNOWN_CAUSES, Failure, told_failures
from launcher.faults.hang_watch import Watch
from launcher.faults.rank_stages import places
from launcher.faults.root_cause import root_cause, silent_deaths
from launcher.run.checkpoints import last_sealed
from launcher.run.output import tail
from launcher.run.process import SIGNALLED, STOPPED
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import read_json
from planner.base.errors import UserError
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Another node's, which ends this one's part."""

    reason: str
    """One line, which names the node."""
    code: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended."""

    code: int
    stopped_by: str | None = None
    failure: Failure | None = None
    hung: str | None = None
    """Who is waited for, in words."""
    rank: int = 0
    """Of those, the one whose log tells most."""
    lost: Trouble | None = None
    """Another node, which took it down."""
    refused: str | None = None
    """Why its preparation ended it, in words."""

    @property
    def ran_out_of_memory(self) -> bool:
        return self.failure is not None and self.failure.cause == "out_of_memory"

    def __str__(self) -> str:
        if self.stopped_by is not None:
            return f"stopped by {self.stopped_by}"
        if self.lost is not None:
            return self.lost.reason
        if self.refused is not None or self.hung is not None:
            return str(self.refused or self.hung)
        if self.failure is not None:
            return str(self.failure)
        return "finished" if self.code == 0 else f"exit code {self.code}"


def how_it_ended(run: RunDirectory, code: int, watch: Watch, *, blamed: Trouble | None) -> Ended:
    if blamed is not None:
        return Ended(code=blamed.code, lost=blamed)
    if code == 0 and not run.report.exists():
        code = SIGNALLED + int(run.stop.read_text(encoding="utf-8"))
    if code in STOPPED:
        return Ended(code=code, stopped_by=STOPPED[code])
    if watch.hung:
        return Ended(code=code, hung=watch.verdict(), rank=watch.waited_for[0].rank)
    return Ended(code=code, failure=_what_failed(run) if code else None)


def _what_failed(run: RunDirectory) -> Failure | None:
    told = told_failures(run.ranks)
    died = silent_deaths(ended_ranks(run.launcher_log), told, places(run.ranks))
    return root_cause([*told, *died])


def show_result(plan: Plan, run: RunDirectory) -> None:
    report = read_json(run.report)
    console = console_on(sys.stdout)
    console.print(summary_table(plan, report))
    for line in closing_lines(plan, run, report):
        console.print(line, markup=False, soft_wrap=True)


def preparation_ended(run: RunDirectory, code: int) -> Ended:
    """What went wrong is said, where the preparation has not done so itself."""
    if code == 0:
        return Ended(code=0)
    if code == UserError.exit_code:
        said = tail(run.preparation_log, 1)
        return Ended(code=code, refused=said[0].removeprefix("error: ") if said else None)
    if code in STOPPED:
        say(f"error: stopped by {STOPPED[code]} before the training began")
        return Ended(code=code, stopped_by=STOPPED[code])
    what = f"preparing the run ended with exit code {code}"
    for line in failure_lines(run.preparation_log, what):
        say(line)
    return Ended(code=code, refused=what)


def show_training_failure(run: RunDirectory, ended: Ended) -> None:
    for line in failed_lines(run, ended):
        say(line)


def say(line: str) -> None:
    print(line, file=sys.stderr)


def failed_lines(run: RunDirectory, ended: Ended) -> list[str]:
    """What to say of an attempt that has not finished its training."""
    step = last_sealed(run.checkpoints)
    rest = f"; step {step} is saved: --resume goes on" if step is not None else ""
    if ended.stopped_by is not None:
        stopped = f"training was stopped by {ended.stopped_by}"
        return [f"error: {stopped}{rest or '; nothing was saved'}"]
    if ended.lost is not None:
        return [f"error: {ended.lost.reason}{rest}"]
    if ended.hung is not None:
        return stack_lines(run.rank_log(ended.rank), ended.hung + rest)
    if ended.failure is not None and ended.failure.cause in KNOWN_CAUSES:
        return [f"error: {_sentence(ended.failure)}{rest}"]
    return _unexpected_lines(run, ended, rest)


def _sentence(failure: Failure) -> str:
    if failure.cause != "out_of_memory":
        return f"rank {failure.rank}: {failure.message}"
    return (
        f"GPU memory ran out on rank {failure.rank} ({failure.where}), and the plan has no leaner "
        f"layout of its strategy: take shorter sequences, or plan again ({failure.message})"
    )


def _unexpected_lines(run: RunDirectory, ended: Ended, rest: str) -> list[str]:
    """The failed rank's own words; torch elastic's only where no rank is known to have failed."""
    failure = ended.failure
    if failure is None:
        return failure_lines(run.launcher_log, f"training ended with exit code {ended.code}{rest}")
    what = f"training failed: {failure}{rest}"
    own = run.rank_log(failure.rank)
    if not own.is_file():
        return early_failure_lines(run.launcher_log, what)
    return stack_lines(own, what) if failure.cause == "died" else failure_lines(own, what)
