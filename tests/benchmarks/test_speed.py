"""The documentation's speed table is the one that the benchmark makes, and its figures hold."""

from dataclasses import replace

import pytest

from benchmarks.errors import error_statistics
from benchmarks.marks import ACCURACY_PAGE
from benchmarks.rows import read_rows
from benchmarks.speed import ranges
from benchmarks.speed.__main__ import PUBLISHED
from benchmarks.speed.predict import measured_s, set_aside, speed_sources
from benchmarks.speed.several_gpus import told_steps
from benchmarks.speed.table import MARKS, Told, markdown, order, rate_sources, told_rows
from planner.speed.card_rates import speed_data

ROWS = read_rows(PUBLISHED)


@pytest.fixture(scope="module")
def told() -> list[Told]:
    return told_rows(ROWS)


def test_the_documentation_shows_the_table_that_the_benchmark_makes(told: list[Told]) -> None:
    page = ACCURACY_PAGE.read_text(encoding="utf-8")
    assert MARKS.with_table(page, markdown(ROWS, told)) == page, (
        "accept with: python -m benchmarks.speed --write"
    )


def test_the_ranges_of_plans_are_those_of_the_rows(told: list[Told]) -> None:
    assert ranges.FILE.read_text(encoding="utf-8") == ranges.presets_text(told, told_steps()), (
        "accept with: python -m benchmarks.speed --presets"
    )


def test_throughput_is_told_within_a_fifth(told: list[Told]) -> None:
    held_out = [each for each in told if each.row.source not in rate_sources()]
    for group in (told, held_out):
        assert error_statistics([each.error for each in group]).median <= 0.2


def test_the_faster_of_two_is_told(told: list[Told]) -> None:
    found = order(told)
    assert found.pairs > 900
    assert found.right >= 0.9 * found.pairs


def test_order_counts_pairs_of_one_source_that_differ(told: list[Told]) -> None:
    first, *_ = told
    other = replace(first.row, source="another")
    slow, quick = (
        first._replace(measured=1.0, predicted=1.0),
        first._replace(measured=2.0, predicted=3.0),
    )
    assert order([slow, quick]) == (1, 1)
    assert order([slow, quick._replace(predicted=0.5)]) == (0, 1)
    assert order([slow, slow]) == order([slow, quick._replace(row=other)]) == (0, 0)


def test_rows_that_a_rate_is_from_are_not_judged(told: list[Told]) -> None:
    assert not {each.row.id for each in told} & set(speed_data().host_s_per_kernel.rows)


def test_every_source_with_a_throughput_is_declared() -> None:
    named = {row.source for row in ROWS if row.throughput is not None and row.ranks == 1}
    assert named <= set(speed_sources())


def test_seconds_of_a_step_in_each_source_s_own_words() -> None:
    by_id = {row.id: row for row in ROWS}
    assert measured_s(by_id["fitcheck-001"]) == 2.695
    assert measured_s(by_id["canift-001"]) == pytest.approx(1024 / 3761.51)
    assert set_aside(by_id["canift-001"]) is not None
