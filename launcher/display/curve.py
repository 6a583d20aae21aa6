"""A series of numbers as a small plot, in lines of text. No function has side effects."""

import math
from collections.abc import Sequence
from itertools import pairwise

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character's dots by row and column (Unicode, block U+2800)."""
_BLANK = 0x2800
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*#@"
_NO_NUMBER = "x"


def draw_curve(
    values: Sequence[float], *, width: int, height: int, ascii_only: bool = False
) -> list[str]:
    """Return ``height`` lines of at most ``width`` characters, including the axis labels.

    >>> print(*draw_curve([4, 3, 2, 1], width=12, height=4, ascii_only=True), sep="\\n")
    4.00 |*
         | **
         |   **
    1.00 |     *
    """
    low, high = min(values), max(values)
    labels = [f"{high:.2f}", f"{low:.2f}"]
    margin = max(map(len, labels)) + 2
    per_row, per_column = (1, 1) if ascii_only else (4, 2)
    rows, columns = height * per_row, (width - margin) * per_column
    points = _points(values, rows=rows, columns=columns)
    draw = _asterisks if ascii_only else _braille
    lines = draw(points, width=width - margin, height=height)
    names = [labels[0], *[""] * (height - 2), labels[1]]
    return [
        f"{name:>{margin - 2}} |{line}".rstrip() for name, line in zip(names, lines, strict=True)
    ]


class History:
    """A series of numbers in bounded room: beyond it, means of 2, 4, 8, ... neighbours are kept.

    >>> history = History(room=2)
    >>> for value in (4.0, 2.0, 1.0, 1.0, 8.0): history.add(value)
    >>> history.means, history.first, history.least
    ([3.0, 1.0], 4.0, 1.0)
    """

    def __init__(self, room: int = 512) -> None:
        self.means: list[float] = []
        """Means of as many neighbours as it takes, in order."""
        self.first: float | None = None
        """The first number; None before it."""
        self.least: float | None = None
        """The least number; None before the first."""
        self._room = room
        self._together = 1
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """Append a number."""
        self.first = value if self.first is None else self.first
        self.least = value if self.least is None else min(self.least, value)
        self._open.append(value)
        if len(self._open) < self._together:
            return
        if len(self.means) == self._room:
            self.means = [_mean(pair) for pair in _groups(self.means, self._room // 2)]
            self._together *= 2
        else:
            self.means.append(_mean(self._open))
            self._open = []


def sparkline(values: Sequence[float], *, width: int, ascii_only: bool = False) -> str:
    """Return one character per value, or per mean of neighbours if there are more than ``width``.

    A value that is not finite is an ``x``.

    >>> sparkline([4, 3, 2, 1], width=4), sparkline([8, 8, 4, 4, 1, 1], width=3)
    ('█▆▃▁', '█▄▁')
    """
    bars = _ASCII_BARS if ascii_only else _BARS
    means = [_mean(group) for group in _groups(values, width)]
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return _NO_NUMBER * len(means)
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(
        bars[round((mean - low) / span * (len(bars) - 1))] if math.isfinite(mean) else _NO_NUMBER
        for mean in means
    )


def _groups(values: Sequence[float], number: int) -> list[Sequence[float]]:
    """Return neighbours in groups of nearly the same size, ``number`` at most."""
    number = min(number, len(values))
    edges = [len(values) * place // number for place in range(number + 1)] if number > 0 else []
    return [values[start:end] for start, end in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _points(values: Sequence[float], *, rows: int, columns: int) -> list[tuple[int, int]]:
    """Return row and column of the dots of a line through the values; row 0 is on top."""
    heights = [_row(values, column / max(1, columns - 1), rows) for column in range(columns)]
    points = []
    for column, row in enumerate(heights):
        before = heights[max(0, column - 1)]
        step = 1 if row >= before else -1
        steep = range(before + step, row, step)
        points += [(between, column) for between in (*steep, row)]
    return points


def _row(values: Sequence[float], share: float, rows: int) -> int:
    """Return the row of the line at a share of its length, from 0 to 1."""
    low, high = min(values), max(values)
    position = (len(values) - 1) * share
    left = int(position)
    right = min(left + 1, len(values) - 1)
    value = values[left] + (values[right] - values[left]) * (position - left)
    return round((high - value) / ((high - low) or 1.0) * (rows - 1))


def _braille(points: Sequence[tuple[int, int]], *, width: int, height: int) -> list[str]:
    cells = [[0] * width for _ in range(height)]
    for row, column in points:
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(_BLANK + bits) if bits else " " for bits in line) for line in cells]


def _asterisks(points: Sequence[tuple[int, int]], *, width: int, height: int) -> list[str]:
    cells = [[" "] * width for _ in range(height)]
    for row, column in points:
        cells[row][column] = "*"
    return ["".join(line).rstrip() for line in cells]
