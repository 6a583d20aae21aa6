"""Sentences that wrap between words, but never between a number and its unit."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

GLUE = "\N{NO-BREAK SPACE}"
INSEPARABLE = re.compile(r"(?<=\d) (?=(?!x )[A-Za-z%])|(?<= [x/]) (?=\d)")
"""The space after a number, and the one between an operator and its number."""


@dataclass(frozen=True, slots=True)
class Prose:
    """Text of one style; a word that is wider than the column is folded."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = "\n".join(self._lines(options.max_width))
        yield Text(lines, style=self.style, no_wrap=True, overflow="ignore")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = max((cell_len(word) for word in self._words()), default=0)
        whole = max(map(cell_len, self.text.splitlines()), default=0)
        return Measurement(widest, whole).with_maximum(options.max_width)

    def _words(self) -> Iterator[str]:
        for line in self.text.splitlines():
            yield from INSEPARABLE.sub(GLUE, line).split(" ")

    def _lines(self, width: int) -> Iterator[str]:
        for line in self.text.splitlines():
            for filled in _filled(INSEPARABLE.sub(GLUE, line).split(" "), width):
                yield filled.replace(GLUE, " ")


def _filled(words: list[str], width: int) -> Iterator[str]:
    """Yield lines with as many words as have room."""
    line = ""
    for word in words:
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        *chopped, line = chop_cells(word, width) or [""]
        yield from chopped
    yield line
