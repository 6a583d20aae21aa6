"""Which method, which layout, and why."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from planner.base.errors import NothingFitsError
from planner.base.units import format_gib
from planner.decision.alternatives import Alternative, alternatives, fallbacks
from planner.decision.method_search import Results, possible_methods, search_method, search_methods
from planner.decision.packing import PackedWay, packed_way, packing_is_faster
from planner.decision.remedies import richer_method, shortfall
from planner.decision.request import Request
from planner.decision.request_checks import check
from planner.decision.tiers import load_tiers
from planner.decision.what_if import WhatIf, what_if
from planner.plan.vocabulary import METHODS, OFFLOADS_FROM, Method, Offload
from planner.recipes.load_recipe import load_recipe
from planner.search.candidate import Candidate
from planner.search.search import SearchResult
from planner.speed.card_rates import speed_data

LEANER_OPTIMIZERS: tuple[str, ...] = ("adamw_8bit", "paged_adamw_8bit")
"""AdamW still, with smaller states; the first is the faster."""
LAST_RESORTS: tuple[Offload, ...] = ("optimizer", "all")


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
        longest = max(_recipe_length(request, method) for method in request.methods)
        return decide(replace(request, data=replace(data, longest=longest)))


def _recipe_length(request: Request, method: Method) -> int:
    return (request.recipe or load_recipe(method)).sequence_length


def decide(request: Request) -> Decision:
    """The decision for a request, or an error that names the shortfall."""
    check(request)
    results = search_methods(request)
    resort = ""
    if not any(result.fits for result in results.values()):
        request, results, resort = _last_resort(request, results)
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


def _last_resort(request: Request, results: Results) -> tuple[Request, Results, str]:
    """The fastest way that fits where nothing does with the recipe's own optimizer on the
    devices: its states in 8 bit, which changes the mathematics, or what the host can hold."""
    found = []
    for kind in (_leaner_optimizers(request), _offloads(request)):
        for changed, words in kind:
            other = possible_methods(changed)
            if any(result.fits for result in other.values()):
                chosen, _, _ = choose(changed, other)
                found.append((chosen.ranking_time_s, changed, other, words))
                break
    if not found:
        raise NothingFitsError(shortfall(request, results))
    _, changed, other, words = min(found, key=lambda each: each[0])
    return changed, other, words


Resorts = Iterator[tuple[Request, str]]


def _leaner_optimizers(request: Request) -> Resorts:
    """The faster first, each with its words."""
    if request.optimizer is None and request.cluster.device == "cuda":
        for name in LEANER_OPTIMIZERS:
            words = f"; nothing fits with the recipe's own optimizer, so {name} (8-bit states)"
            yield replace(request, optimizer=name), words


def _offloads(request: Request) -> Resorts:
    """What moves less first, where the host's memory is known."""
    known = request.cluster.host_ram_bytes is not None and request.cluster.device == "cuda"
    if request.offload is None and known:
        for offload in LAST_RESORTS:
            if request.zero_stage in (None, *OFFLOADS_FROM[offload]):
                yield replace(request, offload=offload), "; nothing fits without offload"


def choose(request: Request, results: Results) -> tuple[Candidate, str, bool]:
    """The candidate, the reason in words, and whether it is below the lowest tier."""
    best = {m: result.best for m, result in results.items() if result.best is not None}
    if len(request.methods) == 1:
        method = request.methods[0]
        asked = request.method is not None or request.recipe is None
        given = "as asked for" if asked else "the recipe's method"
        return best[method], f"{method}, {given}; the fastest layout that fits", False
    richest = [method for method in METHODS if method in best][-1]
    if request.prefer == "quality":
        return best[richest], f"{richest} is the richest method that fits", False
    if request.prefer == "speed":
        fastest = min(best.values(), key=lambda candidate: candidate.rank)
        return fastest, "the most tokens per second of all methods", False
    if request.prefer == "memory":
        return _smallest(request, results), "the smallest peak of all methods", False
    return _by_tiers(request, best)


def _smallest(request: Request, results: Results) -> Candidate:
    """The fastest of those that have the smallest peak of all."""
    leanest = [r.leanest for r in results.values() if r.fits and r.leanest is not None]
    peak = min(candidate.memory.peak_allocated_bytes for candidate in leanest)
    every = (search_method(request, method, peak_bytes=peak).best for method in results)
    return min((c for c in every if c is not None), key=lambda candidate: candidate.rank)


def _by_tiers(request: Request, best: dict[Method, Candidate]) -> tuple[Candidate, str, bool]:
    tiers = load_tiers()
    total = request.cluster.nominal_bytes
    params = request.model.spec.num_params
    reached = [m for m in METHODS if m in best and total >= tiers.threshold_bytes(m, params)]
    if reached:
        method = reached[-1]
        threshold = format_gib(tiers.threshold_bytes(method, params), 0)
        have = format_gib(total, 0)
        return best[method], f"{have} GiB in all reach the {threshold} GiB tier of {method}", False
    method = next(m for m in METHODS if m in best)
    lowest = format_gib(tiers.threshold_bytes(METHODS[0], params), 0)
    why = f"{format_gib(total, 0)} GiB in all are below the lowest tier ({lowest} GiB)"
    return best[method], f"{why}; {method} is the leanest method that fits", True
