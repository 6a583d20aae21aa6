"""A chart of numbers over the steps of runs; the script shows the values at a step."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.base.phrases import Phrase
from planner.page.elements import Markup, element
from planner.page.scale import Scale, scale_around, ticks_between

HEIGHT = 200
"""Pixels of the lines."""
ABOVE = 16
"""Pixels above them, for the text of a level."""
BELOW = 26
"""Pixels below them, for the steps."""
TO_MIDDLE = 5
"""Pixels from the middle of a line of text to its base."""
SMALL, LARGE = 0.001, 1000
"""Numbers below are written with an exponent, from there on without a fraction."""
WIDTH = 1000
"""Units of the lines' own coordinates, which are stretched to the chart."""


class Curve(NamedTuple):
    """The numbers of one run over its steps."""

    kind: str
    """The style: ``first``, ``second``, and ``dashed`` beside it."""
    steps: tuple[int, ...]
    values: tuple[float, ...]


class Level(NamedTuple):
    """A number that is the same at every step, such as a predicted one."""

    text: str
    value: float


def lines_chart(
    name: str, title: str, curves: Sequence[Curve], levels: Sequence[Level] = ()
) -> Markup:
    """Return the chart with its title and axes; at least one curve must have a number."""
    values = [value for curve in curves for value in curve.values]
    steps = [step for curve in curves for step in curve.steps]
    bounds = [*values, *(level.value for level in levels)]
    height = scale_around(min(bounds), max(bounds), pixels=HEIGHT)
    first, last = min(steps), max(max(steps), min(steps) + 1)
    ticks = tuple(tick for tick in ticks_between(first, last) if tick == int(tick))
    width = Scale(first, last, ticks, WIDTH)
    described = Phrase(
        "{title}, from step {first:,} to {last:,}: between {least} and {most}",
        title=title,
        first=first,
        last=last,
        least=number_text(min(values)),
        most=number_text(max(values)),
    )
    return element(
        "figure",
        element("figcaption", element("b", title), element("output", "", class_="readout")),
        element(
            "div",
            _axis(height),
            _plot(name, height, width, curves, levels, described),
            class_="chart",
        ),
        class_="lines",
    )


def number_text(number: float) -> str:
    """Return a number with at most four significant digits, in little room.

    >>> number_text(3450), number_text(0.61234), number_text(2e-4), number_text(0)
    ('3,450', '0.6123', '2e-4', '0')
    """
    if number and abs(number) < SMALL:
        digits, _, exponent = f"{number:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{number:,.0f}" if abs(number) >= LARGE else f"{number:.4g}"


def _y(scale: Scale, value: float) -> float:
    return ABOVE + HEIGHT - scale.pixels(value)


def _axis(scale: Scale) -> Markup:
    return element(
        "svg",
        *(
            element(
                "text",
                number_text(tick),
                x="100%",
                dx=-8,
                y=_y(scale, tick) + TO_MIDDLE,
                text_anchor="end",
            )
            for tick in scale.ticks
        ),
        class_="axis",
        height=ABOVE + HEIGHT + BELOW,
    )


def _plot(
    name: str,
    height: Scale,
    width: Scale,
    curves: Sequence[Curve],
    levels: Sequence[Level],
    described: str,
) -> Markup:
    lines = element(
        "svg",
        *(_curve(curve, height, width) for curve in curves),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        width="100%",
        height=HEIGHT,
        y=ABOVE,
        overflow="visible",
    )
    return element(
        "svg",
        *(_across(_y(height, tick), "grid") for tick in height.ticks),
        *(part for level in levels for part in _level(height, level)),
        lines,
        element("line", y1=ABOVE, y2=ABOVE + HEIGHT, x1=0, x2=0, class_="cursor"),
        *_steps(width),
        class_="plot",
        height=ABOVE + HEIGHT + BELOW,
        role="img",
        tabindex=0,
        aria_label=described,
        data_chart=name,
    )


def _across(y: float, kind: str) -> Markup:
    return element("line", x1=0, x2="100%", y1=y, y2=y, class_=kind)


def _level(scale: Scale, level: Level) -> Iterator[Markup]:
    y = _y(scale, level.value)
    yield _across(y, "level")
    yield element("text", level.text, x="100%", y=y - 6, text_anchor="end")


def _steps(scale: Scale) -> Iterator[Markup]:
    y = ABOVE + HEIGHT + BELOW - 6
    for tick in scale.ticks:
        share = scale.pixels(tick) / WIDTH
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        yield element("text", f"{tick:,g}", x=f"{100 * share:.2f}%", y=y, text_anchor=anchor)


def _curve(curve: Curve, height: Scale, width: Scale) -> Markup:
    points = [
        f"{width.pixels(step):.1f},{HEIGHT - height.pixels(value):.1f}"
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]
    alone = len(points) == 1
    if alone:
        points *= 2  # a line to itself is drawn as a dot
    return element(
        "polyline",
        points=" ".join(points),
        class_=f"curve {curve.kind}{' dot' if alone else ''}",
        vector_effect="non-scaling-stroke",
    )
