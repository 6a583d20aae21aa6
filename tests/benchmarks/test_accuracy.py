"""The documentation's accuracy table is the one that the benchmark makes."""

import pytest

from benchmarks.accuracy import ranges
from benchmarks.accuracy.__main__ import PUBLISHED
from benchmarks.accuracy.predict import predicted, set_aside
from benchmarks.accuracy.sources import sources
from benchmarks.accuracy.table import MARKS, markdown
from benchmarks.marks import ACCURACY_PAGE
from benchmarks.rows import Row, read_rows

ROWS = read_rows(PUBLISHED)
PREDICTED = [row for row in ROWS if set_aside(row) is None]


@pytest.mark.long
def test_the_documentation_shows_the_table_that_the_benchmark_makes() -> None:
    page = ACCURACY_PAGE.read_text(encoding="utf-8")
    assert MARKS.with_table(page, markdown(ROWS)) == page, (
        "accept with: python -m benchmarks.accuracy --write"
    )


def test_the_ranges_of_plans_are_those_of_the_rows() -> None:
    assert ranges.FILE.read_text(encoding="utf-8") == ranges.presets_text(ROWS), (
        "accept with: python -m benchmarks.accuracy --presets"
    )


@pytest.mark.parametrize("name", sources())
def test_a_declared_source_has_rows(name: str) -> None:
    assert any(row.source == name for row in PREDICTED)


@pytest.mark.parametrize("row", PREDICTED[:8], ids=lambda row: row.id)
def test_whole_blocks_are_at_least_what_was_asked_for(row: Row) -> None:
    found = predicted(row)
    assert found["reserved, replayed"] >= found["allocated, replayed"]
