"""The loss curve as text."""

import math

from launcher.display.curve import History, draw_curve, sparkline


def test_a_falling_line_in_plain_characters() -> None:
    assert draw_curve([4, 3, 2, 1], width=12, height=4, ascii_only=True) == [
        "4.00 |*",
        "     | **",
        "     |   **",
        "1.00 |     *",
    ]


def test_a_fall_at_once_has_no_gap() -> None:
    lines = draw_curve([9, 9, 9, 0, 0, 0], width=12, height=4, ascii_only=True)
    assert all("*" in line for line in lines)


def test_dots_stay_within_the_width() -> None:
    lines = draw_curve([5.0, 1.0, 4.0, 0.5, 0.25], width=40, height=6)
    assert len(lines) == 6
    assert max(map(len, lines)) <= 40
    assert lines[0].startswith("5.00 |")
    assert lines[-1].startswith("0.25 |")


def test_one_value_and_equal_values_are_drawn_too() -> None:
    for values in ([2.0], [2.0, 2.0, 2.0]):
        assert any("*" in line for line in draw_curve(values, width=20, height=3, ascii_only=True))


def test_a_sparkline_is_as_long_as_its_values_or_its_width() -> None:
    assert sparkline([4, 3, 2, 1], width=10) == "█▆▃▁"
    assert len(sparkline(list(range(1000)), width=24)) == 24
    assert sparkline([], width=5) == ""
    assert sparkline([2.0, 2.0], width=5) == "▁▁"
    assert sparkline([4, 3, 2, 1], width=10, ascii_only=True) == "@*-_"


def test_a_loss_that_is_no_number_is_seen() -> None:
    assert sparkline([2.0, math.nan, 1.0, math.inf], width=4) == "█x▁x"
    assert sparkline([math.nan], width=4) == "x"


def test_a_long_run_is_kept_in_bounded_room() -> None:
    history = History(room=8)
    for number in range(100):
        history.add(float(100 - number))
    assert 4 <= len(history.means) <= 8
    assert history.means[0] == sum(range(85, 101)) / 16
    assert history.means == sorted(history.means, reverse=True)
    assert (history.first, history.least) == (100.0, 1.0)
