"""Ratios of measured over predicted as presets hold them: a range per method with enough runs, and
one of all."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.errors import quantile
from planner.plan.vocabulary import METHODS

FEWEST = 5
"""Least number of runs of a method that has a range of its own."""
FEWEST_FOR_PERCENTILES = 20


class Ratio(NamedTuple):
    """Measured over predicted of one run."""

    method: str
    source: str
    measured_over_predicted: float


def range_entries(ratios: Sequence[Ratio], *, decimals: int) -> str:
    """Return the entries of the file: 5th, 50th and 95th percentile; minimum, median and maximum of
    few runs."""
    of_methods = {method: [r for r in ratios if r.method == method] for method in METHODS}
    groups = {name: group for name, group in of_methods.items() if len(group) >= FEWEST}
    return "".join(
        range_entry(name, group, decimals=decimals)
        for name, group in [*groups.items(), ("all", ratios)]
    )


def range_entry(name: str, group: Sequence[Ratio], *, decimals: int) -> str:
    """Return the entry of one group."""
    ratios = sorted(ratio.measured_over_predicted for ratio in group)
    outer = 0.05 if len(ratios) >= FEWEST_FOR_PERCENTILES else 0.0
    shares = {"low": outer, "expected": 0.5, "high": 1 - outer}
    figures = "".join(
        f"    {name}: {quantile(ratios, share):.{decimals}f}\n" for name, share in shares.items()
    )
    sources = ", ".join(sorted({ratio.source for ratio in group}))
    return f"  {name}:\n{figures}    runs: {len(ratios)}\n    sources: [{sources}]\n"
