"""What would help: a row for each change of the plan, with its memory and speed."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from planner.base.phrases import Phrase
from planner.base.units import GIB
from planner.decision.improvements import Improvement
from planner.report.prose import Prose
from planner.report.tables import NARROW, FirstThatFits, WithLinesBelow, plain_table

TOLD_BYTES = GIB // 20
"""Bytes from which a difference is told: those that are a tenth of a GiB when rounded."""


def improvements_section(changes: Sequence[Improvement], width: int) -> RenderableType:
    """Return the table of changes, each option beside its row, or below it where it would wrap."""
    options = [each.option for each in changes]
    below = [Prose(option, "dim") for option in options]
    return FirstThatFits(
        _table(changes, options, narrow=False),
        _table(changes, options, narrow=True),
        WithLinesBelow(_table(changes, None, narrow=width < NARROW), below),
    )


def _table(changes: Sequence[Improvement], options: Sequence[str] | None, *, narrow: bool) -> Table:
    table = plain_table(Phrase("What would help"), narrow=narrow)
    table.add_column(Phrase("change"), no_wrap=True)
    table.add_column(Phrase("memory"), justify="right", no_wrap=True)
    table.add_column(Phrase("speed"), justify="right", no_wrap=True)
    if options is not None:
        table.add_column(Phrase("option"), no_wrap=True)
    for number, each in enumerate(changes):
        cells = each.change, _memory(each.memory_bytes), _speed(each.speed)
        table.add_row(*cells, *([] if options is None else [options[number]]))
    return table


def _memory(num_bytes: int) -> str:
    """Return a difference in GiB; less than a tenth is none.

    >>> _memory(-3 * 2**30), _memory(2**20), _memory(2**30)
    ('-3.0 GiB', '-', '+1.0 GiB')
    """
    if abs(num_bytes) < TOLD_BYTES:
        return "-"
    return f"{num_bytes / GIB:+,.1f} GiB"


def _speed(share: float) -> str:
    """Return a difference as a percentage, with a sign.

    >>> _speed(0.998), _speed(-0.1), _speed(0.001)
    ('+100 %', '-10 %', '-')
    """
    text = f"{100 * share:+.0f} %"
    return "-" if text in ("+0 %", "-0 %") else text
