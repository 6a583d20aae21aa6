"""Axes: their ticks are round, few, and around what is shown."""

from hypothesis import given
from hypothesis import strategies as st

from planner.page.scale import LEAST_SPAN, MOST_TICKS, ROUND, scale_around, scale_to

NUMBERS = st.floats(min_value=-1e12, max_value=1e12).map(lambda x: float(f"{x:.6g}"))


@given(NUMBERS, NUMBERS)
def test_an_axis_holds_both_ends(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    scale = scale_around(low, high, pixels=100)
    slack = max(1e-9 * max(abs(low), abs(high)), LEAST_SPAN)
    assert scale.low <= low + slack
    assert scale.high >= high - slack
    assert 2 <= len(scale.ticks) <= MOST_TICKS + 2
    assert scale.pixels(scale.low) == 0


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_from_zero_are_steps_of_a_round_number(most: float) -> None:
    ticks = scale_to(most, pixels=100).ticks
    step = ticks[1] - ticks[0]
    digits = float(f"{step:.3e}".partition("e")[0])
    assert digits in ROUND
    assert ticks[0] == 0
    assert ticks[-1] <= most * (1 + 1e-9) < ticks[-1] + step * (1 + 1e-6)
