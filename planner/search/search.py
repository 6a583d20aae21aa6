"""Every layout as lanes of micro-batches; those a rule forbids are left out, the rest is
narrowed until the fastest that fits is known."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from planner.hardware.cluster import Cluster
from planner.plan.vocabulary import AttentionName, Offload, Strategy
from planner.search.candidate import Candidate
from planner.search.loss_attention_variants import Choice, variant_of
from planner.search.series_search import Group, Lane, Limit, fastest
from planner.speed.card_rates import speed_data
from planner.workload.layout import Series
from planner.workload.rules import Combination, Pinned, Rule, broken_rule
from planner.workload.workload import Workload

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

    def fastest(self, where: Callable[[Lane], bool]) -> Candidate | None:
        """The first by rank among some of the lanes."""
        return fastest(lane for lane in self.lanes if where(lane))

    @property
    def fits(self) -> bool:
        """Whether anything does: the leanest of each group speaks for the others."""
        known = any(lane.num_fitting for lane in self.lanes)
        sharded_first = reversed(_leanest(self.lanes))
        own_first = sorted(sharded_first, key=lambda lane: len(lane.variant.departures))
        if known or any(lane.price(0) for lane in own_first if lane.open):
            return True
        return self.best is not None

    @cached_property
    def leanest(self) -> Candidate | None:
        """The smallest peak of all, fitting or not."""
        return self.leanest_of(lambda _: True)

    def leanest_of(self, where: Callable[[Lane], bool]) -> Candidate | None:
        """The same among some of the lanes. Each departure from the recipe counts as so much more
        as times are told apart by."""
        leanest = _leanest(filter(where, self.lanes))
        found: tuple[float, Candidate] | None = None
        for lane in sorted(leanest, key=lambda lane: len(lane.variant.departures)):
            counted = (1 + speed_data().told_apart.share) ** len(lane.variant.departures)
            if found is not None and counted * lane.least_bytes >= found[0]:
                continue
            candidate = lane.member(0)
            size = counted * candidate.memory.high_bytes
            if found is None or size < found[0]:
                found = size, candidate
        return None if found is None else found[1]

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


def _leanest(lanes: Iterable[Lane]) -> list[Lane]:
    """Of each group the lane that keeps least, in the groups' order."""
    found: dict[int, Lane] = {}
    for lane in lanes:
        known = found.setdefault(id(lane.group), lane)
        if lane.leanness < known.leanness:
            found[id(lane.group)] = lane
    return list(found.values())


def search(
    own: Workload,
    choices: Sequence[Choice],
    cluster: Cluster,
    allowed: Iterable[Series],
    *,
    limit: Limit,
    pinned: frozenset[Pinned],
) -> SearchResult:
    """The lanes of every allowed series, with each loss and attention, that no rule forbids; the
    others are counted. ``own`` is the workload as the recipe has it."""
    lanes: list[Lane] = []
    forbidden: Counter[str] = Counter()
    groups: dict[tuple[Choice, str, bool], Group] = {}
    variants = {choice: variant_of(own, choice) for choice in choices}
    rules: dict[tuple[Strategy, Offload, AttentionName], Rule | None] = {}
    for series in allowed:
        for choice in choices:
            met = series.strategy, series.offload, choice.attention
            if met not in rules:
                rules[met] = rule_against(own, *met, cluster, pinned)
            rule = rules[met]
            if rule is not None:
                forbidden[rule.reason] += len(series.micro_batch_sizes)
                continue
            place = series.strategy, series.accumulates
            group = groups.setdefault((choice, *place), Group(variant=variants[choice]))
            same: Lane | None = None
            if choice.loss != own.loss:
                of_own_loss = groups[(replace(choice, loss=own.loss), *place)]
                of_own_loss.with_other_loss, same = group, of_own_loss.lanes[-1]
            lane = Lane(cluster=cluster, series=series, limit=limit, group=group, own_loss=same)
            group.lanes.append(lane)
            lanes.append(lane)
    return SearchResult(lanes, forbidden)


def rule_against(
    own: Workload,
    strategy: Strategy,
    offload: Offload,
    attention: AttentionName,
    cluster: Cluster,
    pinned: frozenset[Pinned],
) -> Rule | None:
    """No advice is heard against the attention that the recipe has."""
    if attention == own.attention:
        pinned |= {"attention"}
    combination = Combination.of(own, strategy, offload, cluster, attention=attention)
    return broken_rule(combination, pinned=pinned)
