"""Conversions at the edges, and every doctest of the planner."""

import doctest
import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.base.units import GIB, ceil_div, parse_size, round_up

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(planner.__path__, "planner.")
    if name != "planner.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@given(st.integers(0, 10**15), st.integers(1, 10**6))
def test_shards_cover_the_whole(number: int, shards: int) -> None:
    assert ceil_div(number, shards) * shards >= number
    assert round_up(number, shards) % shards == 0


@pytest.mark.parametrize("text", ["24", "24 kg", "G", "-1G", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("digits", ["931323", "9" * 20, "9" * 400])
def test_a_size_beyond_any_device_is_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="is more than 931,322G"):
        parse_size(f"{digits}G")


def test_sizes_are_binary() -> None:
    assert parse_size("22.5 gib") == 22.5 * GIB
