"""Which of a run's failures caused the others, among those recorded and ranks that just ended."""

import signal
from collections.abc import Iterable, Mapping, Sequence

from launcher.faults.failure import Failure
from launcher.faults.rank_stages import RankPosition
from planner.base.phrases import Phrase

_NEVER_FOLLOWS = ("out_of_memory", "not_finite", "not_as_planned", "device_failed")
"""Causes that no rank has because another rank is gone."""


def silent_deaths(
    exit_codes: Mapping[int, int], recorded: Iterable[Failure], positions: Sequence[RankPosition]
) -> list[Failure]:
    """Return a failure for every rank that ended without recording one.

    Such a rank was killed, crashed, or was ended by a library. ``exit_codes`` are by rank, negative
    for a signal.
    """
    have_recorded = {failure.rank for failure in recorded}
    last = {position.rank: position for position in positions}
    return [
        Failure(
            cause="died",
            rank=rank,
            stage=last[rank].stage if rank in last else "load",
            step=last[rank].step if rank in last else 0,
            message=describe_exit(code),
            at=last[rank].entered_at if rank in last else 0.0,
            exit_code=code,
        )
        for rank, code in exit_codes.items()
        if rank not in have_recorded
    ]


def root_cause(failures: Iterable[Failure]) -> Failure | None:
    """Return the failure that most likely caused the others, the earliest of several; or None."""
    return min(failures, key=lambda failure: (_weight(failure), failure.at), default=None)


def _weight(failure: Failure) -> int:
    """Return how likely a failure follows from another rank's end, the lowest for the least.

    When a rank is gone, what all ranks do together fails on the others: a save, an all-reduce. C++
    libraries abort a process whose peer is gone, and torch elastic ends the rest with SIGTERM.
    """
    if failure.cause in _NEVER_FOLLOWS:
        return 0
    if failure.exit_code is not None:
        return {-signal.SIGABRT: 3, -signal.SIGTERM: 5}.get(failure.exit_code, 1)
    return 4 if failure.cause == "lost_peer" else 2


def describe_exit(code: int) -> str:
    """Return how a rank ended, from its exit code; a negative one is a signal.

    >>> describe_exit(1), describe_exit(-9)
    ('ended with exit code 1', 'was killed by signal 9: the system ran out of memory?')
    """
    if code >= 0:
        return Phrase("ended with exit code {code}", code=code)
    guess = Phrase(": the system ran out of memory?") if code == -signal.SIGKILL else ""
    return Phrase("was killed by signal {value}{guess}", value=-code, guess=guess)
