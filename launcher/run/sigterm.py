"""A process that is told to end removes what it has half made."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from launcher.run.process import SIGNALLED


class Stopped(SystemExit):
    """Passes through every ``except Exception``."""


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM leaves the block as an exception would, and then the process; a second ends it at
    once.

    Threads are not waited for: a download that stalls would keep the process.
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
