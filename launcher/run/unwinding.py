"""SIGTERM as an exception, so that a process removes what it has half made before it ends.

What a signal does to a whole run is in launcher/run/process.py.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from launcher.run.process import SIGNALLED


class Stopped(SystemExit):
    """The exception that SIGTERM raises; no ``except Exception`` catches it."""


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Make SIGTERM leave the block like an exception, and then end the process.

    A second SIGTERM ends it at once. Threads are not waited for: a download that stalls would keep
    the process alive.
    """

    def unwind(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(SIGNALLED + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    except Stopped:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(SIGNALLED + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
