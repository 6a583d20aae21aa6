"""What interrupts a command from outside: Ctrl-C during its imports, and readers that are gone.

A terminal that was closed, a pipe whose reader has ended and a log on a full disk raise errors at
every write. A training of days goes on without them.
"""

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Let the system end the process at a Ctrl-C in the block, unless it is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)


class _Unread(io.FileIO):
    """A file whose writes succeed, as far as the writer can see."""

    def write(self, data: Any, /) -> int:
        """Write, and return the number of bytes that need not be written again."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def unread_stream(descriptor: int, *, encoding: str = "utf-8", closefd: bool = True) -> TextIO:
    """Return a stream of lines to a descriptor, which drops what cannot be written.

    A letter that the encoding does not have is written as an escape. ``closefd`` says whether the
    descriptor is closed with the stream.
    """
    raw = _Unread(descriptor, "wb", closefd=closefd)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
    )
