"""The comparison as plain tables, laid out from finished results."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from benchmarks.peers.compare import Comparison
from benchmarks.rows import Quantity
from planner.report.tables import plain_table

TITLES: dict[Quantity, str] = {
    "allocated": "allocated",
    "reserved": "reserved",
    "device_used": "device used",
}


def tables(comparisons: Sequence[Comparison]) -> Lines:
    gap = Text("")
    parts = (_errors(comparisons), _meanings(comparisons), _not_expressed(comparisons))
    return Lines(*(item for part in parts for item in (part, gap)))


def _errors(comparisons: Sequence[Comparison]) -> Table:
    table = plain_table("Error of the predicted peak, by what was read")
    for title in ("estimator", "reading", "rows of", "evidence"):
        table.add_column(title, no_wrap=True)
    for title in ("rows", "median", "95th", "worst", "bias", "under"):
        table.add_column(title, justify="right", no_wrap=True)
    for comparison in comparisons:
        for group, error in comparison.errors.items():
            table.add_row(
                comparison.peer.name,
                TITLES[group.quantity],
                group.source,
                group.evidence,
                str(error.count),
                f"{error.median:.1%}",
                f"{error.percentile_95:.1%}",
                f"{error.worst:+.1%}",
                f"{error.bias:+.1%}",
                f"{error.under_share:.0%}",
            )
    return table


def _meanings(comparisons: Sequence[Comparison]) -> Table:
    table = plain_table("What is compared with what")
    table.add_column("estimator", no_wrap=True)
    table.add_column("reading", no_wrap=True)
    table.add_column("its number", overflow="fold")
    for comparison in comparisons:
        peer = comparison.peer
        for quantity, meaning in peer.compared.items():
            table.add_row(peer.requirement, TITLES[quantity], meaning)
        table.add_row("", "", Text(peer.notes, style="dim"))
    return table


def _not_expressed(comparisons: Sequence[Comparison]) -> Table:
    """Return a table with a row per reason, the most common first, and a column per estimator."""
    table = plain_table("Rows by the first reason why an estimator could not be asked")
    table.add_column("reason", overflow="fold")
    for comparison in comparisons:
        table.add_column(comparison.peer.name, justify="right", no_wrap=True)
    total: Counter[str] = Counter()
    for comparison in comparisons:
        total += comparison.not_expressed
    table.add_row("none: asked", *(str(len(each.predictions)) for each in comparisons))
    for reason, _ in total.most_common():
        table.add_row(reason, *(str(each.not_expressed[reason] or "-") for each in comparisons))
    return table
