"""Output of this process and of its libraries: the terminal for people, a log for the rest."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from planner.base.interruptions import unread_stream


def redirect_output(log_file: Path) -> TextIO:
    """Send all that this process prints, C libraries included, to a file, which is emptied first.

    Return a stream to what standard output was before, for lines that people are to see; it drops
    what cannot be written there any more.
    """
    screen = unread_stream(os.dup(1))
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return screen


@contextmanager
def libraries_quiet(log_file: Path) -> Iterator[TextIO]:
    """Redirect as :func:`redirect_output` does, until the block ends."""
    before = os.dup(1), os.dup(2)
    try:
        with redirect_output(log_file) as screen:
            yield screen
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(before, start=1):
            os.dup2(saved, number)
            os.close(saved)


STACK = "Stack (most recent call first):"
"""First line of a stack that faulthandler writes."""


def last_stack(log_file: Path, num_lines: int) -> list[str]:
    """Return the innermost lines of the last stack in a rank's log; none if there is no stack."""
    text = log_file.read_text(encoding="utf-8", errors="replace") if log_file.is_file() else ""
    _, begins, rest = text.rpartition(STACK)
    stack, *_ = rest.lstrip("\n").partition("\n\n")
    return stack.splitlines()[:num_lines] if begins else []


def tail(log_file: Path, num_lines: int) -> list[str]:
    """Return the last lines of a log that are not empty; none if there is no log."""
    if not log_file.is_file():
        return []
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip()][-num_lines:]
