"""Measured over predicted values of published runs, by method: memory peaks and step times."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

from msgspec import structs

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.hardware.cluster import Device
from planner.plan.vocabulary import SHARDS_NOTHING, Method, Strategy


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


def peak_ratio(method: Method) -> RunRatio:
    """Return the ratio for memory peaks."""
    return _accuracy("accuracy").of(method)


def narrowed(published: RunRatio, own: Sequence[float]) -> RunRatio:
    """Return the range of the next run, given the ratios of runs on the same machine.

    Of n + 1 runs alike, the last is the least or the most of all with a chance of 2 / (n + 1).
    Each end is between that of the runs here and that of published ones, on a logarithmic scale, at
    that chance: a single run narrows nothing.

    >>> published = RunRatio(low=0.8, expected=1.0, high=1.6, runs=40, sources=())
    >>> found = narrowed(published, [1.04, 1.05, 1.07])
    >>> round(found.low, 2), round(found.high, 2)
    (0.91, 1.31)
    """
    if not own:
        return published
    outside = 2 / (len(own) + 1)
    low, high = min(own), max(own)
    return structs.replace(
        published,
        low=low * min(published.low / low, 1.0) ** outside,
        high=high * max(published.high / high, 1.0) ** outside,
    )


TESTED: tuple[Strategy, ...] = ("single", "ddp", "zero1", "zero2", "zero3")
"""The strategies of which published runs, or those of their kind, test the time of a step
(benchmarks/speed/sources.yaml and several_gpus.yaml)."""


def time_ratio(method: Method, strategy: Strategy, device: Device = "cuda") -> RunRatio:
    """Return the ratio for step times: of runs under DeepSpeed where states are sharded, of runs on
    one GPU, or of runs on the CPU at rates that were measured there."""
    if device == "cpu":
        return _accuracy("cpu_speed_accuracy").of(method)
    known = _accuracy("speed_accuracy")
    if strategy not in SHARDS_NOTHING:
        return known.measured_over_predicted["deepspeed"]
    return known.of(method)


@cache
def deepspeed_margin() -> float:
    """Return the factor by which a step under DeepSpeed may take longer than one without it, beside
    what both may take longer than expected: the spread of its published runs over that of all runs
    on one GPU, each the highest over the expected ratio."""
    known = _accuracy("speed_accuracy").measured_over_predicted
    under, without = (known[name].high / known[name].expected for name in ("deepspeed", "all"))
    return max(1.0, under / without)


@cache
def _accuracy(name: Literal["accuracy", "speed_accuracy", "cpu_speed_accuracy"]) -> Accuracy:
    return read_spec(Accuracy, ROOT / f"{name}.yaml")
