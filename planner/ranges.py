"""Measured over predicted, by method: what published runs say of the models of memory and time."""

from functools import cache
from typing import Literal

from pydantic import Field

from planner.plan import Method
from planner.presets import ROOT
from planner.spec import Spec, read_spec


class RunRatio(Spec):
    """Over so many published runs."""

    low: float
    expected: float
    high: float
    runs: int
    sources: tuple[str, ...] = Field(strict=False)


class Ranges(Spec):
    """What benchmarks write into presets with ``--presets``."""

    measured_over_predicted: dict[Method | Literal["all"], RunRatio]


@cache
def _ranges(file: str) -> Ranges:
    return read_spec(Ranges, ROOT / file)


def memory_ratio(method: Method) -> RunRatio:
    """Of the closed form's peak."""
    return _of(_ranges("accuracy.yaml"), method)


def time_ratio(method: Method) -> RunRatio:
    """Of a step's time, on one GPU."""
    return _of(_ranges("speed_accuracy.yaml"), method)


def _of(ranges: Ranges, method: Method) -> RunRatio:
    """Of runs of this method, or of all runs where too few are published."""
    known = ranges.measured_over_predicted
    return known.get(method, known["all"])
