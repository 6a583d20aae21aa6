"""Integers on a simulated card are those of the CPU."""

from tests.simulated.conftest import facts


def test_small_integers_are_computed() -> None:
    seen = facts("h100", "child_values")
    assert seen["gpu"] == seen["cpu"]
    assert set(seen["unread"].values()) == {0.0}
