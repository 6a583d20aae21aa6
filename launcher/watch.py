"""Looks after running ranks: ends those that nothing moves any more, and says who is waited for."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.stages import Place, frozen, places, silent_for_s, waited_for

STACK_SECONDS = 0.5
"""For each rank to write into its log where it is."""


class Watch:
    def __init__(self, folder: Path, *, limit_s: float, node: str | None = None) -> None:
        self._folder, self._limit_s, self._node = folder, limit_s, node
        self.hung: list[Place] = []
        """Every rank of a run that was ended for its silence."""
        self._frozen: list[Place] = []

    def look(self) -> None:
        """End the ranks where none has moved for the limit; a message passes no dead rank."""
        found = places(self._folder)
        if self.hung or silent_for_s(found, time.time()) <= self._limit_s:
            return
        here = [place for place in found if place.node == self._node]
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
