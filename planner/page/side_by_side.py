"""A table with a column for each of several things, and a row for each fact about them."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from planner.base.phrases import spoken

UNKNOWN = "-"
"""Cell of a value that is None."""


def side_by_side(
    names: Sequence[str], groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[Any]]]]]
) -> Table:
    """Return the table: a column for each name, and groups of rows under a heading.

    A row has a heading and a value for each name.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for number, (heading, rows) in enumerate(groups):
        if number:
            table.add_row()
        table.add_row(Text(spoken(heading), style="bold"))
        for key, values in rows:
            table.add_row(
                Text(f"  {spoken(key)}"), *(Text(spoken(in_words(value))) for value in values)
            )
    return table


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
        case list():
            return ", ".join(map(in_words, value)) or UNKNOWN
        case str():
            return value
        case _:
            return str(value)
