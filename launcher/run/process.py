"""Start a command, pass signals on to it, give its exit code."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO

from launcher.run import end_with_parent

SIGNALLED = 128
"""Exit codes above are this plus a signal's number, as in a shell."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = {SIGNALLED + number: number.name for number in STOP_SIGNALS}
"""Exit codes of a run that somebody stopped."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at what is waited for: a command, another node, a file."""
ENDED = 1
"""Exit code of a command that ``look`` has ended."""
END_SECONDS = 5.0
"""For a command to end by itself: one that waits for a lost peer does not."""


def run_to_end(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    *,
    ask_to_stop: Callable[[int], bool] = lambda _number: False,
    look: Callable[[], bool] = lambda: False,
) -> int:
    """Run a command whose standard output is our standard error, and its errors a log.

    It gets a session of its own, so that a terminal's Ctrl-C reaches it once, through us:
    ``ask_to_stop`` says whether the command was asked in another way, else it is ended, and also
    at a Ctrl-C after that: schedulers repeat SIGTERM, and have SIGKILL where they are impatient.
    ``look`` is called while it runs and says whether to end it. After a signal the code says which
    one.
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

        def pass_on(number: int, _frame: FrameType | None) -> None:
            nonlocal stops_by_itself
            first = not received
            received.append(number)
            if first:
                stops_by_itself = ask_to_stop(number)
            waits = stops_by_itself and (first or number == signal.SIGTERM)
            if not waits and child.poll() is None:
                child.send_signal(signal.SIGTERM)

        for number in STOP_SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, pass_on))
        code = _wait(child, look)
    if received and code != 0:
        return SIGNALLED + received[0]
    return code if code >= 0 else SIGNALLED - code


def command_ending_with_parent(command: Sequence[str]) -> list[str]:
    """Return the command that becomes ``command``, and gets SIGTERM when this process ends."""
    return [sys.executable, "-I", "-S", end_with_parent.__file__, str(os.getpid()), *command]


def _wait(child: subprocess.Popen[bytes], look: Callable[[], bool]) -> int:
    while True:
        try:
            return child.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            if look():
                _end(child)
                return ENDED


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and with it its ranks, which call ``end_with_parent`` themselves."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
