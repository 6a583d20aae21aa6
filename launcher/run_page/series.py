"""Numbers over steps, in few enough points for a page. No function has side effects."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from launcher.run_page.run_record import RunRecord, is_number
from planner.base.units import ceil_div

MOST_POINTS = 250
"""Points of one curve; more of them hide each other."""
DIGITS = 5
"""Significant digits of a number that a page shows."""


class Series(NamedTuple):
    """Numbers at steps; of many steps, each number is the mean of neighbours."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def neighbours(records: Sequence[RunRecord]) -> int:
    """Return how many logged steps are one point, the same in all runs."""
    return ceil_div(max(len(record.rows) for record in records), MOST_POINTS) or 1


def series_of(record: RunRecord, name: str, together: int) -> Series:
    """Return a metric of a run over its steps, without numbers that are not finite."""
    points = ((row.step, getattr(row, name)) for row in record.rows)
    return thinned([(step, value) for step, value in points if is_number(value)], together)


def evaluations_of(record: RunRecord) -> Series:
    """Return the loss of held-out samples over the steps."""
    points = ((row.step, row.eval_loss) for row in record.evaluations)
    found = [(step, value) for step, value in points if is_number(value)]
    return thinned(found, ceil_div(len(found), MOST_POINTS) or 1)


def thinned(points: Sequence[tuple[int, float]], together: int) -> Series:
    """Return a point for as many neighbours: their last step, and their mean.

    >>> thinned([(1, 4.0), (2, 2.0), (3, 1.0)], 2)
    Series(steps=(2, 3), values=(3.0, 1.0))
    """
    groups = [points[start : start + together] for start in range(0, len(points), together)]
    return Series(
        steps=tuple(group[-1][0] for group in groups),
        values=tuple(_mean(value for _, value in group) for group in groups),
    )


def _mean(values: Iterable[float]) -> float:
    numbers = tuple(values)
    return float(f"{sum(numbers) / len(numbers):.{DIGITS}g}")
