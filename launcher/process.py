"""Start a command, pass signals on to it, give its exit code."""

import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO

SIGNALLED = 128
"""Exit codes above are this plus a signal's number, as in a shell."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = {SIGNALLED + number: number.name for number in STOP_SIGNALS}
"""Exit codes of a run that somebody stopped."""
_PR_SET_PDEATHSIG = 1  # read: linux/prctl.h
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)


def run_to_end(command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> int:
    """Run a command whose standard output is our standard error, and its errors a log.

    It gets a session of its own, so that a terminal's Ctrl-C reaches it once, through us.
    After a signal the code says which one.
    """
    with ExitStack() as stack:
        errors: IO[bytes] = stack.enter_context(log_file.open("wb"))
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=sys.stderr.fileno(),
            stderr=errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        received: list[int] = []

        def pass_on(number: int, _frame: FrameType | None) -> None:
            if not received and child.poll() is None:
                child.send_signal(signal.SIGTERM)
            received.append(number)

        for number in STOP_SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, pass_on))
        code = child.wait()
    if received and code != 0:
        return SIGNALLED + received[0]
    return code if code >= 0 else SIGNALLED - code


def failed_rank(launcher_log: Path) -> tuple[int, int] | None:
    """Rank and exit code of the first failure, from torch elastic's own summary."""
    text = launcher_log.read_text(encoding="utf-8", errors="replace")
    match = _ROOT_CAUSE.search(text)
    return (int(match[1]), int(match[2])) if match else None


def stop_with_parent() -> None:
    """Ask the kernel for SIGTERM when the process that started this one is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
