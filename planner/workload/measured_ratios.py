"""What published runs had of what is predicted for them, by method: for peaks and for times."""

from functools import cache
from typing import Literal

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.plan.vocabulary import Method


class RunRatio(Spec):
    """Measured over predicted, over so many runs."""

    low: float
    expected: float
    high: float
    runs: int
    sources: tuple[str, ...]


class Accuracy(Spec):
    """What ``python -m benchmarks.accuracy --presets`` writes, and ``benchmarks.speed`` of time."""

    measured_over_predicted: dict[Method | Literal["all"], RunRatio]

    def of(self, method: Method) -> RunRatio:
        """Of runs of this method, or of all runs where too few are published."""
        return self.measured_over_predicted.get(method, self.measured_over_predicted["all"])


@cache
def peak_ratio(method: Method) -> RunRatio:
    """Of the closed form's peak."""
    return read_spec(Accuracy, ROOT / "accuracy.yaml").of(method)


@cache
def time_ratio(method: Method) -> RunRatio:
    """Of a step's time, over runs on one GPU."""
    return read_spec(Accuracy, ROOT / "speed_accuracy.yaml").of(method)
