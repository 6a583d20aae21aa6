"""The console that tables, bars and live views are drawn on."""

import os
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from planner.base.printable import shown

PIPE_COLUMNS = 400
"""Width of what is printed into a pipe or a file, where no sentence needs to wrap."""


def wide_console(stream: TextIO) -> "PrintableConsole":
    """Return a console that writes to a stream, and wraps nothing in a pipe or a file."""
    console = PrintableConsole(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_COLUMNS
    return console


class PrintableConsole(Console):
    """A console that shows the control characters of texts; its own control segments stay."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a plain text as it is drawn, so that columns are as wide as its escapes."""
        return super().render_str(shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(shown(segment.text), segment.style)
