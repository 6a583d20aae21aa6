"""Which method, which layout, and why."""

from collections import Counter
from dataclasses import dataclass, replace

from planner.alternatives import Alternative, alternatives, fallbacks
from planner.errors import NothingFitsError
from planner.plan import METHODS, OFFLOADS_FROM, Method, Offload
from planner.recipe import load_recipe
from planner.remedies import richer_method, shortfall
from planner.request import Request, Results, check, search_methods
from planner.search import Candidate
from planner.tiers import load_tiers
from planner.units import format_gib

LAST_RESORTS: tuple[Offload, ...] = ("optimizer", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
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
    request, results, offloads = _searched(request)
    if not any(result.fitting for result in results.values()):
        raise NothingFitsError(shortfall(request, results))
    chosen, why, tight = _choose(request, results)
    if offloads:
        why += "; nothing fits without offload"
    return Decision(
        request=request,
        chosen=chosen,
        why=why,
        tight=tight,
        alternatives=tuple(alternatives(request, results, chosen)),
        fallbacks=fallbacks(results[chosen.method], chosen),
        rejected=sum((r.rejected for r in results.values()), Counter[str]()),
        richer=richer_method(request, results, chosen),
    )


def _searched(request: Request) -> tuple[Request, Results, bool]:
    """What fits; with offload where nothing else does and the host's memory is known."""
    results = search_methods(request)
    open_to_it = request.offload is None and request.cluster.host_ram_bytes is not None
    fits = any(result.fitting for result in results.values())
    if fits or not open_to_it or request.cluster.device == "cpu":
        return request, results, False
    for offload in LAST_RESORTS:
        if request.zero_stage not in (None, *OFFLOADS_FROM[offload]):
            continue
        offloaded = replace(request, offload=offload)
        found = search_methods(offloaded)
        if any(result.fitting for result in found.values()):
            return offloaded, found, True
    return request, results, False


def _choose(request: Request, results: Results) -> tuple[Candidate, str, bool]:
    """The candidate, the reason in words, and whether it is below the lowest tier."""
    best = {method: result.fitting[0] for method, result in results.items() if result.fitting}
    if len(request.methods) == 1:
        method = request.methods[0]
        given = "the recipe's method" if request.recipe is not None else "as asked for"
        return best[method], f"{method}, {given}; the fastest layout that fits", False
    richest = [method for method in METHODS if method in best][-1]
    if request.prefer == "quality":
        return best[richest], f"{richest} is the richest method that fits", False
    if request.prefer == "speed":
        fastest = min(best.values(), key=lambda candidate: candidate.rank)
        return fastest, "the most tokens per second of all methods", False
    if request.prefer == "memory":
        fitting = [c for result in results.values() for c in result.fitting]
        leanest = min(fitting, key=lambda c: (c.memory.peak_allocated_bytes, c.rank))
        return leanest, "the smallest peak of all methods", False
    return _by_tiers(request, best)


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
