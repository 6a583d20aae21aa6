"""The console that tables, bars and live views are drawn on, and where its lines break: between
words and beside the characters of Chinese, never between a number and its unit or before a closing
mark."""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from planner.base.phrases import spoken
from planner.base.printable import shown

if TYPE_CHECKING:
    from rich.status import Status

PIPE_COLUMNS = 400
"""Width of what is printed into a pipe or a file, where no sentence needs to wrap."""
GLUE = "\N{NO-BREAK SPACE}"
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
"""Han characters and the marks that are written with them: each is a word of its own."""
_CLOSING = "\uff0c\u3002\uff1b\uff1a\uff01\uff1f\u3001\uff09\u300b\u300d\u300f\u3011"
"""Commas, stops and closing brackets, before which no line ends."""
_OPENING = "\uff08\u300a\u300c\u300e\u3010"
"""Opening brackets, after which no line ends."""
_INSEPARABLE = re.compile(r"(?<=\d) (?=(?!x )[A-Za-z%])|(?<= [x/]) (?=\d)")
"""The space after a number, and the one between an operator and its number."""


@cache
def _between() -> re.Pattern[str]:
    """Return the places inside a word where a line may end; English has none and waits for none."""
    return re.compile(
        rf"(?<=[{_WIDE}])(?<![{_OPENING}])(?![{_CLOSING}])"
        rf"|(?<![{_OPENING}{GLUE}])(?=[{_WIDE}])(?![{_CLOSING}])"
    )


@cache
def _before_measure() -> re.Pattern[str]:
    """Return the space between a number and a Chinese unit."""
    return re.compile(rf"(?<=\d) (?=[{_WIDE}])")


def wide_console(stream: TextIO) -> "PrintableConsole":
    """Return a console that writes to a stream, and wraps nothing in a pipe or a file."""
    console = PrintableConsole(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_COLUMNS
    return console


class PrintableConsole(Console):
    """A console that speaks the language of the process, and shows the control characters of texts;
    its own control segments stay."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a plain text as it is drawn, so that columns are as wide as it is then."""
        return super().render_str(shown(spoken(text)), **options)

    def status(self, status: RenderableType, **options: Any) -> "Status":
        """Return a spinner with a text, in the language of the process."""
        text = Text(shown(spoken(status))) if isinstance(status, str) else status
        return super().status(text, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the segments of a renderable; every word of one is a text, or was one."""
        segments = super().render(renderable, options)
        return map(_printable, segments) if isinstance(renderable, Text) else segments


def _printable(segment: Segment) -> Segment:
    if segment.control or segment.text.isprintable():
        return segment
    return Segment(shown(segment.text), segment.style)


def print_unpadded(console: Console, renderable: RenderableType) -> None:
    """Print a renderable; without the spaces at the ends of lines where it is not a terminal."""
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    lines = captured.get().splitlines()
    console.file.write("\n".join(line.rstrip() for line in lines) + "\n")


def words(line: str) -> Iterator[tuple[str, str]]:
    """Yield what keeps a line's words apart, and the words: those inside which no line ends."""
    glued = _INSEPARABLE.sub(GLUE, line)
    if line.isascii():
        for number, word in enumerate(glued.split(" ")):
            yield " " if number else "", word
        return
    for number, word in enumerate(_before_measure().sub(GLUE, glued).split(" ")):
        gap = " " if number else ""
        for piece in filter(None, _between().split(word)) if word else [""]:
            yield gap, piece
            gap = ""


def lines(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text in so many columns; a word that is wider is cut."""
    for line in text.splitlines():
        for filled in _filled(words(line), width):
            yield filled.replace(GLUE, " ")


def _filled(pieces: Iterator[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield lines with as many words as have room."""
    line = ""
    for gap, word in pieces:
        longer = f"{line}{gap}{word}" if line else word
        if cell_len(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        *chopped, line = chop_cells(word, width) or [""]
        yield from chopped
    yield line
