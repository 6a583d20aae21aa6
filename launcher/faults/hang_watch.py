"""Looks after running ranks: ends those that nothing moves any more, and says who is waited for."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.faults.rank_stages import Place, frozen, of_node, places, waited_for

STACK_SECONDS = 0.5
"""For each rank to write into its log where it is."""


class Watch:
    """Of the ranks on one node; whether any rank moves is asked of all, by this node's clock."""

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
        self.hung: list[Place] = []
        """Every rank of a run that was ended for its silence."""
        self._frozen: list[Place] = []

    def look(self) -> None:
        """End the ranks where none has moved for the limit; a message passes no dead rank."""
        found = places(self._folder)
        here = of_node(found, self._node)
        passed = [(place.rank, place.process, place.passed) for place in found]
        if passed != self._passed or not here:
            self._passed, self._moved_at = passed, self._clock()
        if self.hung or self._clock() - self._moved_at <= self._limit_s:
            return
        self.hung, self._frozen = found, frozen(here)
        signal_all(here, signal.SIGUSR1)
        time.sleep(STACK_SECONDS)
        signal_all(here, signal.SIGKILL)

    @property
    def waited_for(self) -> list[Place]:
        """A rank that somebody stopped, or that has passed fewer stages than the others."""
        return self._frozen or waited_for(self.hung)

    def verdict(self) -> str:
        """Of a hung run, one line."""
        behind = self.waited_for
        others = [place for place in self.hung if place not in behind]
        line = f"nothing has moved for {self._limit_s:g} s: {_listed(behind)}"
        if self._frozen:
            line += ", whose process was stopped by a signal"
        elif others:
            line += " is behind"
        else:
            line += ", no rank behind another"
        return f"{line}, and {_listed(others)} waits for it" if others else line


def _listed(found: Sequence[Place]) -> str:
    return ", ".join(map(str, found))


def signal_all(found: Sequence[Place], number: int) -> None:
    for place in found:
        try:
            os.kill(place.process, number)
        except ProcessLookupError:
            continue
