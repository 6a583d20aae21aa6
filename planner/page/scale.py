"""Axes with round numbers. No function has side effects."""

from math import floor, log10
from typing import NamedTuple

MOST_TICKS = 6
LEAST_SPAN = 1e-30
"""Numbers that are less apart are shown as one."""
ROUND = (1, 2, 2.5, 5, 10)
"""Steps between two ticks, times a power of ten."""


class Scale(NamedTuple):
    """An axis from ``low`` to ``high``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    length: float
    """Pixels from the lowest number to the highest."""

    def pixels(self, number: float) -> float:
        """Return the pixels from the axis's beginning to a number."""
        return (number - self.low) / (self.high - self.low) * self.length


def scale_to(most: float, *, pixels: float) -> Scale:
    """Return an axis from zero that ends at ``most``.

    >>> scale_to(23.6, pixels=100).ticks
    (0, 5, 10, 15, 20)
    """
    high = most or 1.0
    return Scale(0, high, ticks_between(0, high), pixels)


def scale_around(low: float, high: float, *, pixels: float) -> Scale:
    """Return an axis that begins and ends at round numbers around ``low`` and ``high``.

    >>> scale_around(0.62, 2.31, pixels=100)[:3]
    (0.5, 2.5, (0.5, 1, 1.5, 2, 2.5))
    """
    if high - low < LEAST_SPAN:
        at_zero = abs(high) < LEAST_SPAN
        low, high = (-1, 1) if at_zero else (min(0, 2 * low), max(0, 2 * high))
    step = _step(high - low)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    ticks = tuple(_tidy(step * n) for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks, pixels)


def ticks_between(low: float, high: float) -> tuple[float, ...]:
    """Return the round numbers between two numbers, at most seven."""
    step = _step(high - low)
    first, last = -floor(-low / step + 1e-9), floor(high / step + 1e-9)
    return tuple(_tidy(step * n) for n in range(first, last + 1))


def _step(span: float) -> float:
    power = 10.0 ** floor(log10(span / MOST_TICKS))
    return next(factor * power for factor in ROUND if span / (factor * power) <= MOST_TICKS)


def _tidy(number: float) -> float:
    """Return a number without the noise of binary fractions, whole if it is."""
    tidy = float(f"{number:.10g}")
    return int(tidy) if tidy == int(tidy) else tidy
