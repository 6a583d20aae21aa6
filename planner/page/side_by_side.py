"""A table with a column for each of several things, and a row for each fact about them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.base.phrases import spoken
from planner.base.printable import shown

UNKNOWN = "-"
"""Cell of a value that is None."""


GAP = 3
"""Columns between two columns of the table."""
INDENT = 4
"""Spaces before values that stand below their heading."""
Groups = Sequence[tuple[str, Sequence[tuple[str, Sequence[Any]]]]]
"""Groups of rows under a heading; a row has a heading and a value of each thing."""


class SideBySide:
    """A column for each thing, and groups of rows under a heading.

    Where names are too long to head columns, numbers do, which lines above explain; where values
    are too long for columns, they stand below the heading of their row. Only lists are broken.
    """

    def __init__(self, names: Sequence[str], groups: Groups) -> None:
        self._names = [shown(name) for name in names]
        self._groups = [
            (spoken(heading), [(spoken(key), [*map(_cell, values)]) for key, values in rows])
            for heading, rows in groups
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers = [str(number) for number in range(1, len(self._names) + 1)]
        beside = options.max_width - self._label_width
        below = options.max_width - INDENT
        for draw, room in ((self._table, beside), (self._below, below)):
            for heads in (self._names, numbers):
                widths = self._widths(heads, room)
                if widths is None:
                    continue
                if heads is numbers:
                    yield _numbered(numbers, self._names)
                    yield ""
                yield draw(heads, widths)
                return
        yield _numbered(numbers, self._names)
        yield self._list(numbers)

    @property
    def _label_width(self) -> int:
        keys = (f"  {key}" for _, rows in self._groups for key, _ in rows)
        titles = (heading for heading, _ in self._groups)
        return max(map(cell_len, [*titles, *keys]), default=0) + GAP

    def _widths(self, heads: Sequence[str], room: int) -> list[int] | None:
        """Return the widths of the columns; None where they have no room."""
        columns = [
            [head, *(values[number] for _, rows in self._groups for _, values in rows)]
            for number, head in enumerate(heads)
        ]
        least = [max(map(_least_width, column)) for column in columns]
        most = [max(map(cell_len, column)) for column in columns]
        spare = room - sum(least) - GAP * (len(least) - 1)
        if spare < 0:
            return None
        widths = []
        for fewest, wanted in zip(least, most, strict=True):
            more = min(wanted - fewest, spare)
            spare -= more
            widths.append(fewest + more)
        return widths

    def _table(self, heads: Sequence[str], widths: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True)
        for head, width in zip(heads, widths, strict=True):
            table.add_column(Text(head), justify="right", width=width)
        for number, (heading, rows) in enumerate(self._groups):
            if number:
                table.add_row()
            table.add_row(Text(heading, style="bold"))
            for key, values in rows:
                table.add_row(Text(f"  {key}"), *map(Text, values))
        return table

    def _below(self, heads: Sequence[str], widths: Sequence[int]) -> Group:
        """Return rows whose values stand in columns below their heading."""
        heading = Padding(_columns(heads, widths), (0, 0, 0, INDENT))
        return Group(heading, *self._rows(lambda each: _columns(each, widths)))

    def _list(self, numbers: Sequence[str]) -> Group:
        """Return rows whose values stand one below the other."""
        return Group(*self._rows(lambda values: _numbered(numbers, values)))

    def _rows(self, drawn: Callable[[Sequence[str]], RenderableType]) -> Iterator[RenderableType]:
        for heading, rows in self._groups:
            yield ""
            yield Text(heading, style="bold")
            for key, values in rows:
                yield Text(f"  {key}")
                yield Padding(drawn(values), (0, 0, 0, INDENT))


def _columns(texts: Sequence[str], widths: Sequence[int]) -> Table:
    table = Table.grid(padding=(0, GAP, 0, 0))
    for width in widths:
        table.add_column(width=width)
    table.add_row(*map(Text, texts))
    return table


def _numbered(numbers: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, text in zip(numbers, texts, strict=True):
        table.add_row(Text(number), Text(text))
    return table


def _cell(value: Any) -> str:
    return shown(spoken(in_words(value)))


def _least_width(text: str) -> int:
    """Return the columns that a text needs, which may be broken after the commas of a list."""
    return max(map(cell_len, text.split(", ")), default=0) + (", " in text)


def in_words(value: Any) -> str:
    """Return a value of a plan as a person reads it.

    >>> in_words(None), in_words(True), in_words(2e-4), in_words(4096), in_words(["q", "v"])
    ('-', 'true', '0.0002', '4,096', 'q, v')
    """
    match value:
        case None:
            return UNKNOWN
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(map(in_words, value)) or UNKNOWN
        case str():
            return value
        case _:
            return str(value)
