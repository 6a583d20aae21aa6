"""Error statistics: signs, quantiles and shares of known lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.errors import error_statistics, quantile, relative_error

FINITE = st.floats(min_value=-1, max_value=10)


def test_a_prediction_above_the_measurement_is_a_positive_error() -> None:
    assert relative_error(predicted=11, measured=10) == pytest.approx(0.1)
    assert relative_error(predicted=9, measured=10) == pytest.approx(-0.1)


def test_sizes_and_signs_are_kept_apart() -> None:
    error = error_statistics([0.01, -0.02, -0.30, 0.04])
    assert error.count == 4
    assert error.median == pytest.approx(0.03)
    assert error.worst == -0.30
    assert error.bias == pytest.approx(-0.005)
    assert error.under_share == 0.5


def test_the_95th_percentile_lies_between_neighbours() -> None:
    assert error_statistics([k / 100 for k in range(21)]).percentile_95 == pytest.approx(0.19)
    assert quantile([0.0, 1.0], 0.95) == pytest.approx(0.95)


def test_one_error_is_every_statistic() -> None:
    error = error_statistics([-0.2])
    assert (error.median, error.percentile_95, error.worst, error.bias) == (0.2, 0.2, -0.2, -0.2)
    assert error.under_share == 1


def test_no_error_is_no_statistic() -> None:
    with pytest.raises(ValueError, match="at least one"):
        error_statistics([])


@given(st.lists(FINITE, min_size=1))
def test_statistics_are_ordered(errors: list[float]) -> None:
    error = error_statistics(errors)
    assert error.median <= error.percentile_95 <= abs(error.worst)
    assert 0 <= error.under_share <= 1
