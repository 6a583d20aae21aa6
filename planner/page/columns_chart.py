"""A chart of stacked columns, such as the parts of memory by phase, with lines across it.

Widths are shares of the chart's, heights are pixels, so that letters stay as large as they are
on a screen of any width.
"""

from collections.abc import Sequence
from typing import NamedTuple

from planner.page.elements import Markup, element
from planner.page.scale import Scale, scale_to

HEIGHT = 320
"""Pixels of the columns and of what stands above them."""
LABELS = 30
"""Pixels below them, for the columns' titles."""
ABOVE = 26
"""Pixels above the highest line, for its label."""
FILLED = 0.64
"""Share of its place that a column fills."""
APART = 1.0
"""Pixels between two segments of a column."""
TO_MIDDLE = 5
"""Pixels from the middle of a line of text to its base."""
TOP = 14
"""Pixels from the top to the base of the first line of text."""
TEXT_ROOM = 22
"""Pixels between two lines from which the lower one has its text between them."""
THINNEST = 1.5
"""Pixels of the thinnest segment that is drawn."""


class Segment(NamedTuple):
    """A segment of a column: the kind that chooses its colour, and its size in the chart's unit."""

    kind: str
    title: str
    size: float


class ColumnOfParts(NamedTuple):
    """A column, its segments from the bottom to the top."""

    title: str
    segments: tuple[Segment, ...]
    total: str
    """Text above the column."""
    stands_out: bool = False


class Line(NamedTuple):
    """A line across the chart."""

    size: float
    text: str
    kind: str
    at_end: bool
    """Whether its text stands at the end of the line instead of its beginning."""


def columns_chart(
    columns: Sequence[ColumnOfParts], lines: Sequence[Line], *, unit: str, described: str
) -> Markup:
    """Return the chart with its axis; ``described`` says in words what it shows."""
    most = max(
        *(sum(segment.size for segment in column.segments) for column in columns),
        *(line.size for line in lines),
    )
    scale = scale_to(most, pixels=HEIGHT - ABOVE)
    marks = element("svg", *_marks(scale, unit), class_="axis", height=HEIGHT + LABELS)
    drawn = element(
        "svg",
        *(_grid(scale, tick) for tick in scale.ticks),
        *(_column(scale, column, n, len(columns)) for n, column in enumerate(columns)),
        *(_line(scale, line, lines) for line in lines),
        class_="plot",
        height=HEIGHT + LABELS,
        role="img",
        aria_label=described,
    )
    return element("div", marks, drawn, class_="chart")


def _y(scale: Scale, size: float) -> float:
    return HEIGHT - scale.pixels(size)


def _marks(scale: Scale, unit: str) -> list[Markup]:
    names = [(f"{tick:g}", _y(scale, tick) + TO_MIDDLE) for tick in scale.ticks]
    return [
        element(
            "text",
            name,
            x="100%",
            dx=-8,
            y=y,
            text_anchor="end",
        )
        for name, y in [*names, (unit, TOP)]
    ]


def _grid(scale: Scale, tick: float) -> Markup:
    y = _y(scale, tick)
    return element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid" if tick else "base")


def _column(scale: Scale, column: ColumnOfParts, number: int, count: int) -> Markup:
    place = 100 / count
    left, middle = place * (number + (1 - FILLED) / 2), place * (number + 0.5)
    rectangles, under = [], 0.0
    for segment in column.segments:
        height = max(THINNEST, scale.pixels(segment.size) - APART)
        rectangles.append(
            element(
                "rect",
                element("title", segment.title),
                x=f"{left:.2f}%",
                width=f"{place * FILLED:.2f}%",
                y=_y(scale, under + segment.size),
                height=height,
                class_=f"part {segment.kind}",
                data_part=segment.kind,
            )
        )
        under += segment.size
    texts = [
        element(
            "text", text, x=f"{middle:.2f}%", y=y, text_anchor="middle", class_=f"column {kind}"
        )
        for text, y, kind in (
            (column.total, _y(scale, under) - 7, "total"),
            (column.title, HEIGHT + 21, "title"),
        )
    ]
    return element("g", *rectangles, *texts, class_="stands-out" if column.stands_out else None)


def _line(scale: Scale, line: Line, lines: Sequence[Line]) -> Markup:
    """Return a line with its text above it, or below where another line is close above."""
    y = _y(scale, line.size)
    above = (y - _y(scale, other.size) for other in lines if other.size > line.size)
    to_text = -7 if min(above, default=TEXT_ROOM) >= TEXT_ROOM else 15
    place = {"x": "100%", "text_anchor": "end"} if line.at_end else {"x": "0"}
    return element(
        "g",
        element("line", x1=0, x2="100%", y1=y, y2=y),
        element("text", line.text, y=y + to_text, **place),
        class_=f"across {line.kind}",
    )
