"""Every layout as lanes of micro-batches; those a rule forbids are left out, the rest is
narrowed until the fastest that fits is known."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property

from planner.candidate import Candidate
from planner.gpu import Cluster
from planner.lanes import Group, Lane, Limit, fastest
from planner.recipe import Workload
from planner.rules import Combination, broken_rule
from planner.strategy import Series

OVER_BUDGET = "over the memory budget"
SLOWER = "not faster than what fits, so not priced"


class SearchResult:
    """The lanes of one method. What is asked of them prices what has to be priced."""

    def __init__(self, lanes: list[Lane], forbidden: Counter[str]) -> None:
        self.lanes = lanes
        self.forbidden = forbidden

    @cached_property
    def best(self) -> Candidate | None:
        return fastest(self.lanes)

    def fastest(self, where: Callable[[Series], bool]) -> Candidate | None:
        """The first by rank among some of the lanes."""
        return fastest(lane for lane in self.lanes if where(lane.series))

    @property
    def fits(self) -> bool:
        """Whether anything does: the leanest of each group speaks for the others."""
        known = any(lane.num_fitting for lane in self.lanes)
        sharded_first = reversed(self._leanest_lanes())
        return known or any(lane.price(0) for lane in sharded_first if lane.open)

    @cached_property
    def leanest(self) -> Candidate | None:
        """The smallest peak of all, fitting or not."""
        return self.leanest_of(lambda _: True)

    def leanest_of(self, where: Callable[[Series], bool]) -> Candidate | None:
        """The same among some of the lanes."""
        groups: dict[int, list[Lane]] = {}
        for lane in self.lanes:
            if where(lane.series):
                groups.setdefault(id(lane.group), []).append(lane)
        leanest = (min(lanes, key=lambda lane: lane.leanness) for lanes in groups.values())
        return min(
            (lane.member(0) for lane in leanest),
            key=lambda candidate: candidate.memory.high_bytes,
            default=None,
        )

    def _leanest_lanes(self) -> list[Lane]:
        groups = {id(lane.group): lane.group for lane in self.lanes}
        return [group.leanest for group in groups.values()]

    @property
    def num_candidates(self) -> int:
        return sum(len(lane.series.micro_batch_sizes) for lane in self.lanes)

    @property
    def rejected(self) -> Counter[str]:
        """How many were left out, by reason, as far as was looked."""
        found = Counter(self.forbidden)
        for lane in self.lanes:
            found[OVER_BUDGET] += len(lane.series.micro_batch_sizes) - lane.too_large_from
            found[SLOWER] += lane.num_open
        return +found


def search(
    workload: Workload,
    cluster: Cluster,
    allowed: Iterable[Series],
    *,
    limit: Limit,
    strategy_pinned: bool,
) -> SearchResult:
    """The lanes of every allowed series that no rule forbids; the others are counted."""
    lanes: list[Lane] = []
    forbidden: Counter[str] = Counter()
    groups: dict[tuple[str, bool], Group] = {}
    for series in allowed:
        combination = Combination.of(workload, series.strategy, series.offload, cluster)
        rule = broken_rule(combination, pinned=strategy_pinned)
        if rule is not None:
            forbidden[rule.reason] += len(series.micro_batch_sizes)
            continue
        group = groups.setdefault((series.strategy, series.accumulates), Group())
        lane = Lane(workload=workload, cluster=cluster, series=series, limit=limit, group=group)
        group.lanes.append(lane)
        lanes.append(lane)
    return SearchResult(lanes, forbidden)
