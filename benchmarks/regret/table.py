"""Predicted beside measured times, and what the choice by predicted ones costs."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

from benchmarks.errors import quantile, relative_error
from benchmarks.measure.matrix import Row
from planner.search.candidate import Candidate

T = TypeVar("T")


class TimedLayout(NamedTuple):
    """A layout with its predicted and its measured step time."""

    row: Row
    candidate: Candidate
    measured_s: float

    @property
    def predicted_s(self) -> float:
        assert self.candidate.step_time_s is not None
        return self.candidate.step_time_s

    @property
    def error(self) -> float:
        """Relative error of the predicted time."""
        return relative_error(predicted=self.predicted_s, measured=self.measured_s)


class RequestRegret(NamedTuple):
    """A request's layouts: the one that a planner takes, and the fastest."""

    name: str
    layouts: list[TimedLayout]

    @property
    def chosen(self) -> TimedLayout:
        return min(self.layouts, key=lambda layout: layout.candidate.rank)

    @property
    def best(self) -> TimedLayout:
        return min(self.layouts, key=lambda layout: layout.measured_s)

    @property
    def regret(self) -> float:
        """Share by which the chosen layout's measured step is longer than the fastest."""
        return self.chosen.measured_s / self.best.measured_s - 1


def request_of(row: Row) -> str:
    """Return the request that a layout is an alternative of."""
    layers = "" if row.num_layers is None else f", {row.num_layers} layers"
    batch = f"{row.global_batch_size} x {row.sequence_length} tokens"
    name = f"{row.model}{layers}, {row.method}, {batch}"
    return f"{name}, packed" if row.packing else name


def grouped(items: Iterable[T], row_of: Callable[[T], Row]) -> dict[str, list[T]]:
    """Return the items by the request that their rows are alternatives of."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(request_of(row_of(item)), []).append(item)
    return found


def by_request(layouts: Iterable[TimedLayout]) -> list[RequestRegret]:
    """Return the layouts by the request that they are alternatives of, those with several."""
    found = grouped(layouts, lambda layout: layout.row)
    return [RequestRegret(name, those) for name, those in found.items() if len(those) > 1]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's correlation of the ranks of two numbers.

    >>> rank_correlation([(1, 10), (2, 30), (3, 20), (4, 40)])
    0.8
    """
    first, second = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    count = len(pairs)
    squares = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    return 1 - 6 * squares / (count * (count**2 - 1))


def _ranks(values: Sequence[float]) -> list[int]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    for rank, place in enumerate(order):
        ranks[place] = rank
    return ranks


def lines(layouts: Sequence[TimedLayout]) -> Iterable[str]:
    """Yield a line per layout, one per request, and the figures of all."""
    requests = by_request(layouts)
    for request in requests:
        yield f"{request.name}: regret {request.regret:.1%}"
        for layout in sorted(request.layouts, key=lambda each: each.measured_s):
            mark = "*" if layout is request.chosen else " "
            yield (
                f"  {mark} {layout.measured_s:6.2f} s, predicted {layout.predicted_s:6.2f} s "
                f"({layout.error:+.0%})  {layout.row.name}"
            )
    if len(layouts) < 2 or not requests:
        return
    sizes = sorted(abs(layout.error) for layout in layouts)
    regrets = [request.regret for request in requests]
    pairs = [(layout.predicted_s, layout.measured_s) for layout in layouts]
    yield (
        f"{len(layouts)} layouts: error of the time median {median(sizes):.1%}, 95th percentile "
        f"{quantile(sizes, 0.95):.1%}; rank correlation {rank_correlation(pairs):.2f}; regret "
        f"median {median(regrets):.1%}, worst {max(regrets):.1%}"
    )
