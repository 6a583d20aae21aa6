"""How far predictions are from measurements: one set of statistics for every comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatistics:
    """Relative errors, as fractions of what was measured; a positive one predicted too much."""

    count: int
    median: float
    """Middle of the errors without their signs."""
    percentile_95: float
    """Without signs, interpolated between neighbours."""
    worst: float
    """The largest error, with its sign."""
    bias: float
    """Middle of the errors with their signs."""
    under_share: float
    """Share of predictions below the measurement: those run out of memory."""


def relative_error(*, predicted: float, measured: float) -> float:
    """
    >>> relative_error(predicted=3, measured=4)
    -0.25
    """
    return (predicted - measured) / measured


def error_statistics(errors: Sequence[float]) -> ErrorStatistics:
    """Statistics of at least one signed relative error.

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
    """The value below which ``share`` of an ascending sequence lies, between neighbours.

    >>> quantile([0.0, 1.0, 2.0], 0.75)
    1.5
    """
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
