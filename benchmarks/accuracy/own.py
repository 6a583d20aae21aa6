"""Errors of predicted peaks on the runs that this project measured."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from benchmarks.accuracy.predict import MEASURED_AS, Reading
from benchmarks.errors import relative_error
from benchmarks.measure.results import RESULTS, own_runs


def own_errors(more: Sequence[Path] = ()) -> dict[tuple[Reading, str, str], list[float]]:
    """Return signed relative errors by reading, card and method; none if no run was measured.

    ``more`` are folders in addition to ours, such as those of ``launch --record``.
    """
    found: dict[tuple[Reading, str, str], list[float]] = defaultdict(list)
    for run in chain.from_iterable(own_runs(folder) for folder in (RESULTS, *more)):
        for reading, kind in MEASURED_AS.items():
            if reading in run.predicted:
                error = relative_error(
                    predicted=run.predicted[reading], measured=run.measured[kind]
                )
                found[reading, run.card, run.row.method].append(error)
    return dict(found)
