"""Which of a run's failures the others follow from: of those told, and of ranks that only ended."""

import signal
from collections.abc import Iterable, Mapping, Sequence

from launcher.faults.failure import Failure
from launcher.faults.rank_stages import Place

_OF_THEIR_OWN = ("out_of_memory", "not_finite", "not_as_planned")
"""No rank has them because another is gone."""


def silent_deaths(
    exit_codes: Mapping[int, int], told: Iterable[Failure], places: Sequence[Place]
) -> list[Failure]:
    """Of the ranks that ended without a word: killed, crashed, or ended by a library."""
    spoke = {failure.rank for failure in told}
    last = {place.rank: place for place in places}
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
        if rank not in spoke
    ]


def root_cause(found: Iterable[Failure]) -> Failure | None:
    """The one that the others follow from: the most telling, and of those the earliest."""
    return min(found, key=lambda each: (_weight(each), each.at), default=None)


def _weight(failure: Failure) -> int:
    """The less, the less likely it only follows from another rank's end.

    A rank that is gone takes with it what the others do together: a save, a sum. C++ libraries
    abort a process whose peer they have lost, and torch elastic ends the rest with SIGTERM.
    """
    if failure.cause in _OF_THEIR_OWN:
        return 0
    if failure.exit_code is not None:
        return {-signal.SIGABRT: 3, -signal.SIGTERM: 5}.get(failure.exit_code, 1)
    return 4 if failure.cause == "lost_peer" else 2


def describe_exit(code: int) -> str:
    """What an exit code of a rank means.

    >>> describe_exit(1), describe_exit(-9)
    ('ended with exit code 1', 'was killed by signal 9: the system ran out of memory?')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    guess = ": the system ran out of memory?" if code == -signal.SIGKILL else ""
    return f"was killed by signal {-code}{guess}"
