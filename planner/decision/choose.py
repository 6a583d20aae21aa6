"""Which method, which layout, and why."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from planner.base.errors import NothingFitsError
from planner.decision.alternatives import Alternative, alternatives, fallbacks
from planner.decision.last_resorts import last_resort
from planner.decision.method_search import search_methods
from planner.decision.packing import PackedWay, packed_way, packing_is_faster
from planner.decision.preference import choose
from planner.decision.remedies import richer_method
from planner.decision.request import Request
from planner.decision.request_checks import check
from planner.decision.what_if import WhatIf, what_if
from planner.search.candidate import Candidate
from planner.search.search import SearchResult
from planner.speed.card_rates import speed_data


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen, why, and all that the report tells of the rest."""

    request: Request
    chosen: Candidate
    why: str
    tight: bool
    """Below the lowest tier: it fits, with little to spare."""
    alternatives: tuple[Alternative, ...]
    fallbacks: tuple[Candidate, ...]
    rejected: Counter[str]
    richer: str | None
    """What would make the next richer method fit, where it does not."""
    packed: PackedWay | None
    """With several samples in a sequence, where that would pay and is not chosen."""

    @cached_property
    def what_if(self) -> WhatIf | None:
        """How far the plan is from its limits, priced when it is asked."""
        return what_if(self.request, self.chosen)


def decide_with_data(request: Request) -> Decision:
    """As below; at the recipe's length where the longer one that the data ask for does not fit."""
    try:
        return decide(request)
    except NothingFitsError:
        data, pinned = request.data, request.sequence_length is not None
        if data is None or data.known is None or data.longest is not None or pinned:
            raise
        longest = max(request.recipe_for(method).sequence_length for method in request.methods)
        return decide(replace(request, data=replace(data, longest=longest)))


def decide(request: Request) -> Decision:
    """The decision for a request, or an error that names the shortfall."""
    check(request)
    results = search_methods(request)
    resort = ""
    if not any(result.fits for result in results.values()):
        request, results, resort = last_resort(request, results)
    chosen, why, tight = choose(request, results)
    packed = packed_way(request, chosen)
    if request.prefer == "speed" and packing_is_faster(request, chosen, packed):
        faster = decide(replace(request, packing=True))
        return replace(faster, why=f"{faster.why}, packed: a run takes less time")
    return Decision(
        request=request,
        chosen=chosen,
        why=why + resort + _why_another(results[chosen.method], chosen),
        tight=tight,
        alternatives=tuple(alternatives(request, results, chosen)),
        fallbacks=fallbacks(results[chosen.method], chosen),
        rejected=sum((r.rejected for r in results.values()), Counter[str]()),
        richer=richer_method(request, results, chosen),
        packed=packed,
    )


def _why_another(result: SearchResult, chosen: Candidate) -> str:
    """Where the choice departs from the recipe, what it does better."""
    if not chosen.departures:
        return ""
    own = result.fastest(lambda lane: not lane.variant.departures)
    said = f"; {' and '.join(chosen.departures)}"
    if own is None:
        return f"{said}, since nothing fits as the recipe has it"
    faster = own.ranking_time_s / chosen.ranking_time_s - 1
    if faster > speed_data().told_apart.share:
        return f"{said}: {faster:.0%} faster than as the recipe has it"
    return f"{said}, which takes less memory"
