"""Sentences in the language of the process, which wrap where their lines may end."""

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from planner.base.console import lines, words
from planner.base.phrases import spoken


class Prose(Struct, frozen=True):
    """Text of one style; a word that is wider than the column is folded."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        filled = "\n".join(lines(spoken(self.text), options.max_width))
        yield Text(filled, style=self.style, no_wrap=True, overflow="ignore")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        whole = spoken(self.text).splitlines()
        widest = max((cell_len(word) for line in whole for _, word in words(line)), default=0)
        return Measurement(widest, max(map(cell_len, whole), default=0)).with_maximum(
            options.max_width
        )
