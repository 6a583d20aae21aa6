"""Errors of predicted throughput on the runs that this project measured."""

from collections import defaultdict

from benchmarks.errors import relative_error
from benchmarks.measure.results import own_runs


def own_errors() -> dict[tuple[str, str], list[float]]:
    """Return signed relative errors of the throughput by card and method."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in own_runs():
        if run.predicted_s is not None and run.measured_s is not None:
            error = relative_error(predicted=1 / run.predicted_s, measured=1 / run.measured_s)
            found[run.card, run.row.method].append(error)
    return dict(found)
