"""Measured over predicted values of published runs, by method: memory peaks and step times."""

from functools import cache
from typing import Literal

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.plan.vocabulary import ZERO_STAGE, Method, Strategy


class RunRatio(Spec):
    """Measured over predicted, with the number of runs that it comes from."""

    low: float
    expected: float
    high: float
    runs: int
    sources: tuple[str, ...]


class Accuracy(Spec):
    """A file that ``python -m benchmarks.accuracy --presets`` writes, or ``benchmarks.speed`` for
    times."""

    measured_over_predicted: dict[Method | Literal["all", "deepspeed"], RunRatio]

    def of(self, method: Method) -> RunRatio:
        """Return the ratio of this method's runs, or that of all runs where too few are
        published."""
        return self.measured_over_predicted.get(method, self.measured_over_predicted["all"])


@cache
def peak_ratio(method: Method) -> RunRatio:
    """Return the ratio for memory peaks."""
    return read_spec(Accuracy, ROOT / "accuracy.yaml").of(method)


def time_ratio(method: Method, strategy: Strategy) -> RunRatio:
    """Return the ratio for step times: of runs under DeepSpeed, or of runs on one GPU."""
    known = _speed_accuracy()
    if ZERO_STAGE[strategy] > 0:
        return known.measured_over_predicted["deepspeed"]
    return known.of(method)


@cache
def deepspeed_margin() -> float:
    """Return the factor by which a step under DeepSpeed may take longer than one without it, beside
    what both may take longer than expected: the spread of its published runs over that of all runs
    on one GPU, each the highest over the expected ratio."""
    known = _speed_accuracy().measured_over_predicted
    under, without = (known[name].high / known[name].expected for name in ("deepspeed", "all"))
    return max(1.0, under / without)


@cache
def _speed_accuracy() -> Accuracy:
    return read_spec(Accuracy, ROOT / "speed_accuracy.yaml")
