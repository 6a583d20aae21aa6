"""Commands that are run to their end, and their exit code.

The first Ctrl-C, SIGTERM or SIGHUP (a terminal that was closed) asks a command to stop by itself,
and a Ctrl-C after it ends it. No wait is without an end: who does not obey is killed, and so is all
that it has started.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from launcher.run import end_with_parent

SIGNALLED = 128
"""Exit codes above 128 are 128 plus a signal's number, as in a shell."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = {SIGNALLED + number: number.name for number in STOP_SIGNALS}
"""Name of the signal by exit code, of a run that a person or a scheduler stopped."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at what is waited for: a command, another node, a file."""
ENDED = 1
"""Exit code of a command that was ended because ``look`` said so."""
END_SECONDS = 5.0
"""Seconds for a command to end after SIGTERM: one that waits for a lost peer does not."""
ASKED_END_SECONDS = 40.0
"""The same after a first signal: torch elastic gives its ranks 30 s before it kills them (read:
torch/distributed/elastic/agent/server/api.py at 2.13, shutdown_timeout)."""


def run_to_end(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    *,
    ask_to_stop: Callable[[int], bool] = lambda _number: False,
    look: Callable[[], bool] = lambda: False,
) -> int:
    """Run a command and return its exit code; after a signal, 128 plus the signal's number.

    Its standard output goes to our standard error, and its standard error to ``log_file``. It runs
    in a session of its own, so that a terminal's Ctrl-C reaches it through us alone.

    At the first signal ``ask_to_stop`` is called with its number and returns whether the command
    will stop by itself; if not, the command gets SIGTERM. After that a repeated SIGTERM or SIGHUP
    changes nothing, because schedulers repeat them and have SIGKILL for haste, and a Ctrl-C ends
    the command. A SIGHUP that ``nohup`` has told this process to ignore stays ignored.
    A command that got SIGTERM and does not end is killed with its descendants.
    ``look`` is called every ``LOOK_SECONDS`` and returns whether to end the command.
    """
    with ExitStack() as stack:
        errors: IO[bytes] = stack.enter_context(log_file.open("wb"))
        child = subprocess.Popen(
            command_ending_with_parent(command),
            env=dict(environment),
            stdout=sys.stderr.fileno(),
            stderr=errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        received: list[int] = []
        stops_by_itself = False
        killed_at = math.inf

        def pass_on(number: int, _frame: FrameType | None) -> None:
            nonlocal stops_by_itself, killed_at
            first = not received
            received.append(number)
            if first:
                stops_by_itself = ask_to_stop(number)
            waits = stops_by_itself and (first or number != signal.SIGINT)
            if not waits and child.poll() is None:
                child.send_signal(signal.SIGTERM)
                hastes = number == signal.SIGINT and not first
                seconds = END_SECONDS if hastes else ASKED_END_SECONDS
                killed_at = min(killed_at, time.monotonic() + seconds)

        for number in heeded_signals():
            stack.callback(signal.signal, number, signal.signal(number, pass_on))
        code = _wait(child, look, lambda: time.monotonic() > killed_at)
    if received and code != 0:
        return SIGNALLED + received[0]
    return code if code >= 0 else SIGNALLED - code


def heeded_signals() -> list[signal.Signals]:
    """Return the signals that ask to stop; SIGHUP not where ``nohup`` has had it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not ignored]


def command_ending_with_parent(command: Sequence[str]) -> list[str]:
    """Return the command that becomes ``command``, and gets SIGTERM when this process ends."""
    return [sys.executable, "-I", "-S", end_with_parent.__file__, str(os.getpid()), *command]


def _wait(
    child: subprocess.Popen[bytes], look: Callable[[], bool], is_late: Callable[[], bool]
) -> int:
    while True:
        try:
            return child.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            if is_late():
                return _kill(child)
            if look():
                _end(child)
                return ENDED


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and with it its ranks, which call ``end_with_parent`` themselves."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> int:
    """Kill the child and its descendants, of which each may have a session of its own."""
    others = _descendants(child.pid)
    child.kill()
    code = child.wait()
    for process in others:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return code


def _descendants(process: int) -> list[int]:
    """Return the processes that one has started, and those that they have started.

    read: proc_pid_stat(5); the name in parentheses may hold any character.
    """
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = stat.read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [process]
    for each in found:
        found += children.get(each, ())
    return found[1:]
