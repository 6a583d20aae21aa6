"""How every table of the report looks: a bold title at the left, one rule, no frame."""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table

from planner.report.prose import Prose

NARROW = 76
"""Columns of a terminal below which tables use less room."""


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


def facts(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Return rows of a name at the left and a value at the right; strings wrap as prose."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Prose(value) if isinstance(value, str) else value)
    return table
