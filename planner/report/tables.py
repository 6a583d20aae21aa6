"""How every table of the report looks: a bold title at the left, one rule, no frame."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table

from planner.report.prose import Prose

NARROW = 76
"""Columns of a terminal below which tables use less room."""

WIDER_THAN_ANY = 10_000
"""Columns that hold every row of a table on one line."""


def plain_table(title: str, *, narrow: bool = False) -> Table:
    """Return a table without rows and columns; a narrow one has less space between columns."""
    return Table(
        title=title,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )


class FirstThatFits:
    """The first of several forms that is no wider than the terminal, else the last."""

    def __init__(self, *forms: RenderableType) -> None:
        self._forms = forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(max_width=WIDER_THAN_ANY)
        for form in self._forms[:-1]:
            if Measurement.get(console, unbounded, form).maximum <= options.max_width:
                yield form
                return
        yield self._forms[-1]


class WithLinesBelow:
    """A table without wrapped rows, and below each row a text in lines of its own."""

    def __init__(self, table: Table, texts: Sequence[Prose]) -> None:
        self._table = table
        self._texts = texts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._table, options, pad=False)
        head = len(lines) - len(self._texts)
        for line in lines[:head]:
            yield from (*line, Segment.line())
        for line, text in zip(lines[head:], self._texts, strict=True):
            yield from (*line, Segment.line())
            yield Padding(text, (0, 0, 0, 2))


def facts(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Return rows of a name at the left and a value at the right; strings wrap as prose."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Prose(value) if isinstance(value, str) else value)
    return table
