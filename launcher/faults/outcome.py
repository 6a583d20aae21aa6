"""How a run's training ended, and the lines and tables that say so."""

import sys
from dataclasses import dataclass

from launcher.compat.torch_text import device_remedy, ended_ranks
from launcher.display.closing_summary import (
    closing_lines,
    early_failure_lines,
    failure_lines,
    stack_lines,
    summary_table,
)
from launcher.display.console import console_on
from launcher.faults.failure import KNOWN_CAUSES, Failure, recorded_failures
from launcher.faults.hang_watch import HangWatch
from launcher.faults.rank_stages import rank_positions
from launcher.faults.root_cause import root_cause, silent_deaths
from launcher.run.checkpoints import last_sealed
from launcher.run.output import tail
from launcher.run.process import SIGNALLED, STOPPED
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import read_json
from planner.base.errors import UserError
from planner.base.phrases import Joined, Phrase, spoken
from planner.base.printable import print_text
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFailure:
    """The failure of another node, which ends this node's part of the run."""

    reason: str
    """One line, which names the node."""
    code: int = 1
    """Exit code of this node's part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt, or the preparation before it, ended. At most one reason is given."""

    code: int
    """Exit code; 0 if it finished."""
    stopped_by: str | None = None
    """Name of the signal that stopped it."""
    failure: Failure | None = None
    """The rank's failure that caused the others."""
    hung: str | None = None
    """Line that says which ranks were waiting for which."""
    rank: int = 0
    """Number of a rank that was waited for, if the run hung: its log is the most informative."""
    peer_failure: PeerFailure | None = None
    """The failure of another node that ended it."""
    refused: str | None = None
    """Reason why the preparation ended it."""

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether GPU memory ran out."""
        return self.failure is not None and self.failure.cause == "out_of_memory"

    @property
    def room_bytes(self) -> int | None:
        """Bytes that the rank could have of its GPU when memory ran out, if that is known."""
        return None if self.failure is None else self.failure.room_bytes

    def __str__(self) -> str:
        if self.stopped_by is not None:
            return Phrase("stopped by {signal}", signal=self.stopped_by)
        if self.peer_failure is not None:
            return self.peer_failure.reason
        if self.refused is not None or self.hung is not None:
            return str(self.refused or self.hung)
        if self.failure is not None:
            return str(self.failure)
        return Phrase("finished") if self.code == 0 else Phrase("exit code {code}", code=self.code)


def outcome_of(
    run: RunDirectory, code: int, watch: HangWatch, *, blamed: PeerFailure | None
) -> Outcome:
    """Return how an attempt ended, from torch elastic's exit code and what was recorded.

    ``blamed`` is the failure of another node that is to blame, if there is one.
    """
    if blamed is not None:
        return Outcome(code=blamed.code, peer_failure=blamed)
    if code == 0 and not run.report.exists():
        code = SIGNALLED + int(run.stop.read_text(encoding="utf-8"))
    if code in STOPPED:
        return Outcome(code=code, stopped_by=STOPPED[code])
    if watch.hung:
        return Outcome(code=code, hung=watch.describe(), rank=watch.waited_for[0].rank)
    return Outcome(code=code, failure=_first_failure(run) if code else None)


def _first_failure(run: RunDirectory) -> Failure | None:
    recorded = recorded_failures(run.ranks)
    died = silent_deaths(ended_ranks(run.launcher_log), recorded, rank_positions(run.ranks))
    return root_cause([*recorded, *died])


def show_result(plan: Plan, run: RunDirectory) -> None:
    """Print the summary of a finished run."""
    report = read_json(run.report)
    console = console_on(sys.stdout)
    console.print(summary_table(plan, report))
    for line in closing_lines(plan, run, report):
        console.print(line, markup=False, soft_wrap=True)


def preparation_outcome(run: RunDirectory, code: int) -> Outcome:
    """Return how the preparation ended, and print the reason unless it has printed it itself."""
    if code == 0:
        return Outcome(code=0)
    if code == UserError.exit_code:
        last = tail(run.preparation_log, 1)
        return Outcome(
            code=code, refused=last[0].removeprefix(spoken(_error(""))) if last else None
        )
    if code in STOPPED:
        say(Phrase("error: stopped by {signal} before the training began", signal=STOPPED[code]))
        return Outcome(code=code, stopped_by=STOPPED[code])
    what = Phrase("preparing the run ended with exit code {code}", code=code)
    for line in failure_lines(run.preparation_log, what):
        say(line)
    return Outcome(code=code, refused=what)


def show_training_failure(run: RunDirectory, outcome: Outcome) -> None:
    """Print why an attempt has not finished."""
    for line in failed_lines(run, outcome):
        say(line)


def say(line: str) -> None:
    """Print a line to standard error."""
    print_text(line, file=sys.stderr)


def failed_lines(run: RunDirectory, outcome: Outcome) -> list[str]:
    """Return what to print of an attempt that has not finished: the reason, and how to resume."""
    step = last_sealed(run.checkpoints)
    rest = (
        Phrase("; step {step} is saved: --resume continues", step=step) if step is not None else ""
    )
    if outcome.stopped_by is not None:
        stopped = Phrase("training was stopped by {signal}", signal=outcome.stopped_by)
        return [_error(stopped + (rest or Phrase("; no checkpoint was saved")))]
    if outcome.peer_failure is not None:
        return [_error(Joined("", [outcome.peer_failure.reason, rest]))]
    if outcome.hung is not None:
        return stack_lines(run.rank_log(outcome.rank), outcome.hung + rest)
    if outcome.failure is not None and outcome.failure.cause in KNOWN_CAUSES:
        return [_error(_sentence(outcome.failure) + rest)]
    return _unexpected_lines(run, outcome, rest)


def _error(message: str) -> Phrase:
    return Phrase("error: {message}", message=message)


def _sentence(failure: Failure) -> Phrase:
    if failure.cause == "device_failed":
        return Phrase(
            "the GPU of rank {rank} failed ({where}; {message}): {remedy}",
            rank=failure.rank,
            where=failure.where,
            message=failure.message,
            remedy=device_remedy(failure.message),
        )
    if failure.cause != "out_of_memory":
        return Phrase("rank {rank}: {message}", rank=failure.rank, message=failure.message)
    return Phrase(
        "GPU memory ran out on rank {rank} ({where}), and the plan has no leaner "
        "layout of its strategy that may fit: set a shorter sequence, or plan again "
        "({message})",
        rank=failure.rank,
        where=failure.where,
        message=failure.message,
    )


def _unexpected_lines(run: RunDirectory, outcome: Outcome, rest: str) -> list[str]:
    """Return the end of the failed rank's log, or of torch elastic's if no rank is known."""
    failure = outcome.failure
    if failure is None:
        what = Phrase("training ended with exit code {code}{rest}", code=outcome.code, rest=rest)
        return failure_lines(run.launcher_log, what)
    what = Phrase("training failed: {failure}{rest}", failure=str(failure), rest=rest)
    rank_log = run.rank_log(failure.rank)
    if not rank_log.is_file():
        return early_failure_lines(run.launcher_log, what)
    show = stack_lines if failure.cause == "died" else failure_lines
    return show(rank_log, what)
