"""A decision: the plan chosen for a request, the reasons, and what the report shows of the other
candidates."""

from collections import Counter
from functools import cached_property

from msgspec import Struct, structs

from planner.base.errors import NothingFitsError
from planner.base.phrases import Joined, Phrase, Reason
from planner.base.units import format_share
from planner.decision.alternatives import Alternative, alternatives, fallbacks
from planner.decision.improvements import Improvement, improvements
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

TIGHT_SHARE = 0.05
"""Share of the budget below which what is free in the worst case is called tight."""


class Decision(Struct, frozen=True, kw_only=True, dict=True):
    """The chosen candidate, the reasons, and what the report shows of the other candidates."""

    request: Request
    """The request that is answered: with a last resort set if no candidate fitted without."""
    chosen: Candidate
    why: Reason
    """Why this method, and why another loss, attention, optimizer or offload."""
    alternatives: tuple[Alternative, ...]
    fallbacks: tuple[Candidate, ...]
    rejected: Counter[Reason]
    richer: str | None
    """The remedy that would make the next richer method fit; None where it fits or is not
    allowed."""
    packed: PackedWay | None
    """The chosen candidate with several samples per sequence, where that would pay and is not
    chosen."""

    @property
    def spare_bytes(self) -> int:
        """Bytes of a device's budget that stay free in the worst case."""
        return self.request.budget_bytes - self.chosen.memory.high_bytes

    @property
    def tight(self) -> bool:
        """Whether the plan fits with little memory to spare."""
        return self.spare_bytes < TIGHT_SHARE * self.request.budget_bytes

    @cached_property
    def improvements(self) -> list[Improvement]:
        """What would make the plan faster or leaner; computed on first access."""
        return improvements(self.request, self.chosen, self.alternatives, self.packed)

    @cached_property
    def what_if(self) -> WhatIf | None:
        """How far the plan is from its limits; computed on first access."""
        return what_if(self.request, self.chosen)


def decide_with_data(request: Request) -> Decision:
    """Return the decision for a request, at the recipe's sequence length where the longer one that
    the data ask for does not fit.

    Raises as ``decide`` does.
    """
    try:
        return decide(request)
    except NothingFitsError:
        data, pinned = request.data, request.sequence_length is not None
        if data is None or data.known is None or data.longest is not None or pinned:
            raise
        longest = max(request.recipe_for(method).sequence_length for method in request.methods)
        return decide(structs.replace(request, data=structs.replace(data, longest=longest)))


def decide(request: Request) -> Decision:
    """Return the decision for a request.

    Raises InvalidRequestError for options that contradict each other, the model or the machine, and
    NothingFitsError, which names the shortfall and the nearest request that fits.
    """
    check(request)
    results = search_methods(request)
    resort = ""
    if not any(result.fits for result in results.values()):
        request, results, resort = last_resort(request, results)
    chosen, why = choose(request, results)
    packed = packed_way(request, chosen)
    if request.prefer == "speed" and packing_is_faster(request, chosen, packed):
        faster = decide(structs.replace(request, packing=True))
        why = Reason(faster.why.code, faster.why + Phrase(", packed: a run takes less time"))
        return structs.replace(faster, why=why)
    return Decision(
        request=request,
        chosen=chosen,
        why=Reason(why.code, why + resort + _why_another(results[chosen.method], chosen)),
        alternatives=tuple(alternatives(request, results, chosen)),
        fallbacks=fallbacks(results[chosen.method], chosen),
        rejected=sum((r.rejected for r in results.values()), Counter[Reason]()),
        richer=richer_method(request, results, chosen),
        packed=packed,
    )


def _why_another(result: SearchResult, chosen: Candidate) -> str:
    """Return what the choice does better than the recipe where it departs from it."""
    if not chosen.departures:
        return ""
    own = result.fastest(lambda lane: not lane.variant.departures)
    departures = Joined("; ", ["", Joined(" and ", chosen.departures)])
    if own is None:
        return Phrase(
            "{departures}, since nothing fits as the recipe has it", departures=departures
        )
    faster = own.ranking_time_s / chosen.ranking_time_s - 1
    if faster > speed_data().told_apart.share:
        return Phrase(
            "{departures}: {faster} faster than as the recipe has it",
            departures=departures,
            faster=format_share(faster),
        )
    return Phrase("{departures}, which takes less memory", departures=departures)
