"""The search over all layouts of one method.

Layouts are grouped into series of micro-batch sizes; those that a rule forbids are left out, and
the others are narrowed until the fastest that fits is known.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from msgspec import structs

from planner.base.phrases import Phrase, Reason
from planner.hardware.cluster import Cluster
from planner.plan.vocabulary import AttentionName, Offload, Strategy
from planner.search.candidate import Candidate
from planner.search.loss_attention_variants import Choice, variant_of
from planner.search.series_search import Limit, SeriesGroup, SeriesSearch, fastest
from planner.speed.card_rates import speed_data
from planner.workload.layout import Series, Sharding
from planner.workload.rules import Combination, Pinned, Rule, broken_rule
from planner.workload.workload import Workload

OVER_BUDGET = Reason("over_memory_budget", Phrase("over the memory budget"))
SLOWER = Reason("not_faster", Phrase("not faster than what fits, so not priced"))


class SearchResult:
    """The series of one method. Properties price the candidates that they need."""

    def __init__(self, series: list[SeriesSearch], forbidden: Counter[Reason]) -> None:
        self.series = series
        self.forbidden = forbidden

    @cached_property
    def best(self) -> Candidate | None:
        """The first candidate by rank of those that fit; None if none does."""
        return fastest(self.series)

    def fastest(self, where: Callable[[SeriesSearch], bool]) -> Candidate | None:
        """Return the first candidate by rank that fits among the series that ``where`` admits."""
        return fastest(search for search in self.series if where(search))

    @property
    def fits(self) -> bool:
        """Whether any candidate fits: the leanest one of each group decides for the others."""
        known = any(search.num_fitting for search in self.series)
        sharded_first = reversed(_leanest(self.series))
        own_first = sorted(
            sharded_first, key=lambda search: (len(search.variant.departures), search.leanness)
        )
        if known or any(search.price(0) for search in own_first if search.open):
            return True
        return self.best is not None

    @cached_property
    def leanest(self) -> Candidate | None:
        """The candidate with the least memory, whether it fits or not; None if there is none."""
        return self.leanest_of(lambda _: True)

    def leanest_of(self, where: Callable[[SeriesSearch], bool]) -> Candidate | None:
        """Return the candidate with the least memory among the series that ``where`` admits.

        Each departure from the recipe counts as more memory, by the relative step that the speed
        model can resolve in time.
        """
        found: tuple[float, Candidate] | None = None
        leanest = [(search, search.candidate(0)) for search in _leanest(filter(where, self.series))]
        for search, candidate in sorted(leanest, key=_departures_then_states):
            counted = (1 + speed_data().told_apart.share) ** len(candidate.departures)
            if found is not None and counted * candidate.floor_bytes >= found[0]:
                continue
            if found is not None and counted * search.least_bytes >= found[0]:
                continue
            size = counted * candidate.memory.high_bytes
            if found is None or size < found[0]:
                found = size, candidate
        return None if found is None else found[1]

    @property
    def num_candidates(self) -> int:
        """Number of candidates that no rule forbids."""
        return sum(len(search.layouts.micro_batch_sizes) for search in self.series)

    @property
    def rejected(self) -> Counter[Reason]:
        """Number of candidates left out by reason, as far as they were looked at."""
        found = Counter(self.forbidden)
        for search in self.series:
            found[OVER_BUDGET] += len(search.layouts.micro_batch_sizes) - search.too_large_from
            found[SLOWER] += search.num_open
        return +found


def _departures_then_states(leanest: tuple[SeriesSearch, Candidate]) -> tuple[int, int]:
    """Sort key: fewer departures from the recipe first, then less that the states alone take, which
    spares the pricing of those that come after."""
    _, candidate = leanest
    return len(candidate.departures), candidate.floor_bytes


def _leanest(series: Iterable[SeriesSearch]) -> list[SeriesSearch]:
    """Return the leanest series of each group, in the groups' order."""
    found: dict[int, SeriesSearch] = {}
    for search in series:
        known = found.setdefault(id(search.group), search)
        if search.leanness < known.leanness:
            found[id(search.group)] = search
    return list(found.values())


def search(
    recipe_workload: Workload,
    choices: Sequence[Choice],
    cluster: Cluster,
    allowed: Iterable[Series],
    *,
    limit: Limit,
    pinned: frozenset[Pinned],
) -> SearchResult:
    """Return the series of every allowed layout with each loss and attention; what a rule forbids
    is counted by the rule's reason."""
    series: list[SeriesSearch] = []
    forbidden: Counter[Reason] = Counter()
    groups: dict[tuple[Choice, Sharding, bool], SeriesGroup] = {}
    variants = {choice: variant_of(recipe_workload, choice) for choice in choices}
    rules: dict[tuple[Strategy, Offload, AttentionName], Reason | None] = {}
    for layouts in allowed:
        for choice in choices:
            met = layouts.strategy, layouts.offload, choice.attention
            if met not in rules:
                rule = rule_against(
                    recipe_workload,
                    *met,
                    cluster,
                    pinned,
                    shares_sequences=layouts.sequence_ranks > 1,
                )
                rules[met] = None if rule is None else Reason(rule.name, Phrase(rule.reason))
            reason = rules[met]
            if reason is not None:
                forbidden[reason] += len(layouts.micro_batch_sizes)
                continue
            place = layouts.sharding, layouts.accumulates
            group = groups.setdefault((choice, *place), SeriesGroup(variant=variants[choice]))
            counterpart: SeriesSearch | None = None
            if choice.loss != recipe_workload.loss:
                with_recipe_loss = groups[
                    (structs.replace(choice, loss=recipe_workload.loss), *place)
                ]
                with_recipe_loss.with_other_loss, counterpart = group, with_recipe_loss.series[-1]
            entry = SeriesSearch(
                cluster=cluster,
                layouts=layouts,
                limit=limit,
                group=group,
                with_recipe_loss=counterpart,
            )
            group.series.append(entry)
            series.append(entry)
    return SearchResult(series, forbidden)


def rule_against(
    recipe_workload: Workload,
    strategy: Strategy,
    offload: Offload,
    attention: AttentionName,
    cluster: Cluster,
    pinned: frozenset[Pinned],
    *,
    shares_sequences: bool = False,
) -> Rule | None:
    """Return the first violated rule; advisory rules never exclude the recipe's own attention."""
    if attention == recipe_workload.attention:
        pinned |= {"attention"}
    combination = Combination.of(
        recipe_workload,
        strategy,
        offload,
        cluster,
        attention=attention,
        shares_sequences=shares_sequences,
    )
    return broken_rule(combination, pinned=pinned)
