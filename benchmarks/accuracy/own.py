"""Errors on the runs that this project has measured itself."""

from collections import defaultdict

from benchmarks.accuracy.predict import MEASURED_AS, Reading
from benchmarks.errors import relative_error
from benchmarks.measure.results import own_runs


def own_errors() -> dict[tuple[Reading, str, str], list[float]]:
    """Signed relative errors by reading, card and method; none where nothing was measured."""
    found: dict[tuple[Reading, str, str], list[float]] = defaultdict(list)
    for run in own_runs():
        for reading, kind in MEASURED_AS.items():
            if reading in run.predicted:
                error = relative_error(
                    predicted=run.predicted[reading], measured=run.measured[kind]
                )
                found[reading, run.card, run.row.method].append(error)
    return dict(found)
