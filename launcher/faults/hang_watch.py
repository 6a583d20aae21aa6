"""The watch over running ranks: it ends those of a run without progress and says who waits."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.faults.rank_stages import (
    RankPosition,
    furthest_behind,
    positions_here,
    rank_positions,
    stopped_by_signal,
)
from planner.base.phrases import Joined, Phrase

STACK_SECONDS = 0.5
"""Seconds for the ranks to write their stacks into their logs."""


class HangWatch:
    """The watch over one node's ranks. Progress of any rank of the run counts, by this clock."""

    def __init__(
        self,
        folder: Path,
        *,
        limit_s: float,
        node: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._limit_s, self._node = folder, limit_s, node
        self._clock, self._moved_at = clock, clock()
        self._passed: list[tuple[int, int, int]] = []
        self.hung: list[RankPosition] = []
        """Positions of all ranks when the run was ended for want of progress; else empty."""
        self._stopped: list[RankPosition] = []

    def look(self) -> None:
        """End this node's ranks if no rank of the run has entered a stage within the limit."""
        positions = rank_positions(self._folder)
        here = positions_here(positions, self._node)
        passed = [(position.rank, position.process, position.passed) for position in positions]
        if passed != self._passed or not here:
            self._passed, self._moved_at = passed, self._clock()
        if self.hung or self._clock() - self._moved_at <= self._limit_s:
            return
        self.hung, self._stopped = positions, stopped_by_signal(here)
        signal_all(here, signal.SIGUSR1)
        time.sleep(STACK_SECONDS)
        signal_all(here, signal.SIGKILL)

    @property
    def waited_for(self) -> list[RankPosition]:
        """The ranks that a signal has stopped, else those that have passed the fewest stages."""
        return self._stopped or furthest_behind(self.hung)

    def describe(self) -> str:
        """Return one line that says which ranks of a hung run are waiting for which."""
        behind = self.waited_for
        waiting = [position for position in self.hung if position not in behind]
        line: str = Phrase("no progress for {limit_s:g} s: ", limit_s=self._limit_s)
        if waiting:
            ranks = _listed(waiting)
            if len(waiting) == 1:
                line += Phrase("{rank} is waiting for ", rank=ranks)
            else:
                line += Phrase("{ranks} are waiting for ", ranks=ranks)
        elif not self._stopped:
            line += Phrase("no rank is behind the others: ")
        return line + _listed(behind) + (Phrase(", stopped by a signal") if self._stopped else "")


def _listed(positions: Sequence[RankPosition]) -> str:
    return Joined(", ", map(str, positions))


def signal_all(positions: Sequence[RankPosition], number: int) -> None:
    """Send a signal to the processes of these ranks, as far as they still run."""
    for position in positions:
        try:
            os.kill(position.process, number)
        except ProcessLookupError:
            continue
