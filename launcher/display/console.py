"""The consoles that tables, bars and live views are drawn on, made in one way."""

from typing import TextIO

from rich.console import Console

from planner.base.console import PrintableConsole


def console_on(stream: TextIO, *, is_terminal: bool | None = None) -> Console:
    """Return a console that writes to a stream and colours nothing by guessing.

    ``is_terminal`` is None if rich is to ask the stream.
    """
    return PrintableConsole(file=stream, highlight=False, force_terminal=is_terminal)
