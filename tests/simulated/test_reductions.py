"""Sums over rows take the buffers that the tape says."""

from planner.tape.split_reductions import split_buffers
from tests.simulated.conftest import facts


def test_a_sum_over_rows_takes_a_buffer_on_the_largest_card() -> None:
    for rows, columns, counted in facts("b200", "child_reductions"):
        assert sum(split_buffers(rows=rows, columns=columns)) == counted, (rows, columns)


def test_a_smaller_card_takes_no_more() -> None:
    for rows, columns, counted in facts("t4", "child_reductions"):
        assert sum(split_buffers(rows=rows, columns=columns)) >= counted, (rows, columns)
