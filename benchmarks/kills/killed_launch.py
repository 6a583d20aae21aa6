"""A launch as a process that gets signals: how it ends, what it leaves, and what came of it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.kills.shapes import rows
from launcher.faults.rank_stages import rank_positions
from launcher.storage.digest import file_digest

MOST_SECONDS = 120.0
"""Seconds within which a launch must end after its signal."""
LEFT_SECONDS = 45.0
"""Seconds for the processes of a launch that was killed: torch elastic gives ranks 30 s."""
WHOLE_SECONDS = 900.0
PAUSE_SECONDS = 3.0
_STEP = re.compile(r"^step ", re.MULTILINE)
_RESUMED = re.compile(r"resuming from step (\d+)")


class Ended(NamedTuple):
    """What a finished run has come to."""

    rows: list[tuple[float, ...]]
    weights: dict[str, str]
    """Digest of every file of the adapter or model."""


class Started:
    """``launch plan.yaml`` in a folder, in a session of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._output = folder / f"said-{len(list(folder.glob('said-*')))}"
        self._signalled_at: float | None = None
        self._hung = False
        self.code = 0
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launcher", "plan.yaml", *options],
                cwd=folder,
                env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        """Send a signal to the launcher alone."""
        self._signalled_at = time.monotonic()
        self.process.send_signal(number)

    def wait_for_steps(self, steps: int) -> None:
        """Wait until this launch has made so many steps, or has ended."""
        while self.process.poll() is None and len(_STEP.findall(self.said)) < steps:
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Return the processes of the ranks that train now."""
        found = rank_positions(self._folder / "run" / ".ranks")
        return [each.process for each in found if Path(f"/proc/{each.process}").exists()]

    def descendants(self) -> list[int]:
        """Return all processes that were started for this folder."""
        return list(_processes_of(self._folder))

    def ended(self) -> int:
        """Wait for its end and return its exit code; it is killed where it does not end."""
        limit = WHOLE_SECONDS if self._signalled_at is None else MOST_SECONDS
        try:
            self.code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self._hung = True
            self.process.kill()
            self.code = self.process.wait()
        return self.code

    @property
    def said(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def last_line(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1][:300]

    @property
    def resumed_from(self) -> int | None:
        match = _RESUMED.search(self.said)
        return int(match[1]) if match else None

    def wrong(self) -> Iterator[str]:
        """Say what must not happen after a signal; processes that are left are ended."""
        if self._hung:
            yield f"did not end within {MOST_SECONDS:.0f} s"
        if "Traceback" in self.said:
            yield f"a traceback: {self.last_line}"
        end = time.monotonic() + LEFT_SECONDS
        while (left := self.descendants()) and time.monotonic() < end:
            time.sleep(0.2)
        if left:
            yield f"{len(left)} processes are left"
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _rank_or_launch(started: Started) -> int:
    """Return the process of the last rank; that of the launcher where there is none yet."""
    return [started.process.pid, *started.ranks()][-1]


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _kill_rank(started: Started) -> None:
    started.send(0)
    _send(_rank_or_launch(started), signal.SIGKILL)


def _kill_elastic(started: Started) -> None:
    """Kill the process between launcher and ranks; the launcher where there is none."""
    started.send(0)
    children = children_of(started.process.pid)
    _send([started.process.pid, *children][-1], signal.SIGKILL)


def _kill_all(started: Started) -> None:
    started.send(0)
    for process in started.descendants():
        _send(process, signal.SIGKILL)


def _twice(started: Started) -> None:
    started.send(signal.SIGINT)
    time.sleep(0.3)
    started.send(signal.SIGINT)


def _stop_rank(started: Started) -> None:
    """Stop a rank for good, which the hang watch must notice; where there is none, a moment."""
    ranks = started.ranks()
    if ranks:
        started.send(0)
        _send(ranks[-1], signal.SIGSTOP)
    else:
        _pause(started, started.process.pid)


def _pause(started: Started, process: int) -> None:
    """Stop a process for a while that the hang watch allows."""
    started.send(0)
    _send(process, signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    _send(process, signal.SIGCONT)


ACTS: dict[str, Callable[[Started], None]] = {
    "SIGKILL of a rank": _kill_rank,
    "SIGKILL of torch elastic": _kill_elastic,
    "SIGKILL of launch": lambda started: started.send(signal.SIGKILL),
    "SIGKILL of all": _kill_all,
    "SIGTERM": lambda started: started.send(signal.SIGTERM),
    "SIGHUP": lambda started: started.send(signal.SIGHUP),
    "SIGINT": lambda started: started.send(signal.SIGINT),
    "SIGINT twice": _twice,
    "SIGSTOP of a rank": _stop_rank,
    "SIGSTOP and SIGCONT of a rank": lambda started: _pause(started, _rank_or_launch(started)),
    "SIGSTOP and SIGCONT of launch": lambda started: _pause(started, started.process.pid),
}


def finished(folder: Path) -> Ended:
    """Return the losses and the weights of a run that has finished."""
    files = [*folder.glob("run/adapter/*.safetensors"), *folder.glob("run/model/*.safetensors")]
    return Ended(rows(folder), {file.name: file_digest(file) for file in files})


def children_of(process: int) -> list[int]:
    """Return the processes that one has started."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    with suppress(OSError):  # it has ended
        return [int(child) for child in listed.read_text(encoding="utf-8").split()]
    return []


def _processes_of(folder: Path) -> Iterator[int]:
    """Yield the processes that run in a folder."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it has ended, or is another user's
            if link.readlink() == folder:
                yield int(link.parent.name)
