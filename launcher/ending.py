"""How a run's training ended, and what a person is told of it."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from launcher.checkpoints import last_whole
from launcher.failure import Failure, first_failure
from launcher.process import SIGNALLED, STOPPED, failed_rank
from launcher.run_directory import RunDirectory, read_json
from launcher.screen import tail
from launcher.summary import (
    closing_lines,
    describe_exit,
    failure_lines,
    hang_lines,
    summary_table,
)
from launcher.watch import Watch
from planner.errors import UserError
from planner.plan import Plan


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
    """Whose log tells most."""
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
        if self.failure is None:
            return "finished" if self.code == 0 else f"exit code {self.code}"
        what = self.failure.cause.replace("_", " ")
        return f"{what} on rank {self.failure.rank}, {self.failure.where}"


def how_it_ended(run: RunDirectory, code: int, watch: Watch, *, blamed: Trouble | None) -> Ended:
    if blamed is not None:
        return Ended(code=blamed.code, lost=blamed)
    if code == 0 and not run.report.exists():
        code = SIGNALLED + int(run.stop.read_text(encoding="utf-8"))
    if code in STOPPED:
        return Ended(code=code, stopped_by=STOPPED[code])
    if watch.hung:
        return Ended(code=code, hung=watch.verdict(), rank=watch.waited_for[0].rank)
    return Ended(code=code, failure=first_failure(run.ranks) if code else None)


def show_result(plan: Plan, run: RunDirectory) -> None:
    report = read_json(run.report)
    console = Console(highlight=False)
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
    show_log(run.preparation_log, what)
    return Ended(code=code, refused=what)


def show_training_failure(run: RunDirectory, ended: Ended) -> None:
    saved, _ = last_whole(run.checkpoints)
    rest = f"; step {saved.step} is saved: --resume goes on" if saved else ""
    if ended.stopped_by is not None:
        say(f"error: training was stopped by {ended.stopped_by}{rest or '; nothing was saved'}")
    elif ended.lost is not None:
        say(f"error: {ended.lost.reason}{rest}")
    elif ended.hung is not None:
        for line in hang_lines(run.rank_log(ended.rank), ended.hung + rest):
            say(line)
    elif ended.failure is not None and ended.failure.cause != "other":
        say(f"error: {failure_sentence(ended.failure)}{rest}")
    else:
        show_unexpected(run, ended, rest)


def failure_sentence(failure: Failure) -> str:
    if failure.cause != "out_of_memory":
        return f"rank {failure.rank}: {failure.message}"
    return (
        f"GPU memory ran out on rank {failure.rank} ({failure.where}), and the plan has no leaner "
        f"layout of its strategy: take shorter sequences, or plan again ({failure.message})"
    )


def show_unexpected(run: RunDirectory, ended: Ended, rest: str) -> None:
    failed = failed_rank(run.launcher_log)
    if failed is None:
        show_log(run.launcher_log, f"training ended with exit code {ended.code}{rest}")
        return
    rank, exit_code = failed
    if ended.failure is not None and exit_code > 0:
        rank = ended.failure.rank
    what = f"training failed: rank {rank} {describe_exit(exit_code)}{rest}"
    show_log(run.rank_log(rank), what)


def show_log(log_file: Path, what: str) -> None:
    for line in failure_lines(log_file, what):
        say(line)


def say(line: str) -> None:
    print(line, file=sys.stderr)
