"""Statistics of the errors of predictions, the same for every comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatistics:
    """Relative errors, as fractions of the measurement; a positive error is a prediction that is
    too large."""

    count: int
    median: float
    """Median of the errors without their signs."""
    percentile_95: float
    """95th percentile of the errors without their signs, interpolated between neighbours."""
    worst: float
    """Largest error, with its sign."""
    bias: float
    """Median of the errors with their signs."""
    under_share: float
    """Share of predictions below the measurement, which are the ones that run out of memory."""


def relative_error(*, predicted: float, measured: float) -> float:
    """
    >>> relative_error(predicted=3, measured=4)
    -0.25
    """
    return (predicted - measured) / measured


def error_statistics(errors: Sequence[float]) -> ErrorStatistics:
    """Return the statistics of signed relative errors, of which there is at least one.

    >>> error_statistics([-0.1, 0.0, 0.3]).worst
    0.3
    """
    if not errors:
        raise ValueError("there is no error to describe: at least one is needed")
    sizes = sorted(abs(error) for error in errors)
    return ErrorStatistics(
        count=len(errors),
        median=median(sizes),
        percentile_95=quantile(sizes, 0.95),
        worst=max(errors, key=abs),
        bias=median(errors),
        under_share=sum(error < 0 for error in errors) / len(errors),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of an ascending sequence lies, interpolated between
    neighbours.

    >>> quantile([0.0, 1.0, 2.0], 0.75)
    1.5
    """
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
