"""The chart of memory over the phases of a step, stacked by part."""

from collections.abc import Iterator, Mapping, Sequence

from planner.base.phrases import Phrase
from planner.base.units import GIB, short_gib
from planner.page.columns_chart import ColumnOfParts, Line, Segment, columns_chart
from planner.page.elements import Markup, element
from planner.plan.vocabulary import PARTS, PHASE_TITLES, PHASES

Sizes = Mapping[str, int]
"""Bytes by part."""


def memory_chart(phases: Mapping[str, Sizes], lines: Sequence[Line], *, described: str) -> Markup:
    """Return the chart of the sizes by phase; ``described`` says in words what it shows."""
    totals = {phase: sum(phases.get(phase, {}).values()) for phase in PHASES}
    peak = max(PHASES, key=totals.__getitem__)
    columns = [
        ColumnOfParts(
            title=PHASE_TITLES[phase],
            segments=tuple(_segments(phases.get(phase, {}), PHASE_TITLES[phase])),
            total=short_gib(totals[phase]),
            stands_out=phase == peak,
        )
        for phase in PHASES
    ]
    return columns_chart(columns, lines, unit="GiB", described=described)


def _segments(sizes: Sizes, phase: str) -> Iterator[Segment]:
    for part in PARTS:
        if sizes.get(part):
            title = Phrase(
                "{part}, {phase}: {gib} GiB",
                part=part_title(part),
                phase=phase,
                gib=short_gib(sizes[part]),
            )
            yield Segment(kind=part, title=title, size=sizes[part] / GIB)


def part_title(part: str) -> str:
    """Return the name of a part in words."""
    return Phrase(part.replace("_", " "))


def swatch(kind: str) -> Markup:
    """Return a square in the colour of a part."""
    square = element("rect", width=12, height=12, rx=2, class_=f"part {kind}")
    return element("svg", square, width=12, height=12, class_="swatch", aria_hidden="true")
