"""The alternatives to a plan, each with the reason it was not chosen, and the fallbacks."""

from collections.abc import Callable
from typing import cast

from msgspec import Struct, structs

from planner.base.phrases import Joined, Phrase, Reason
from planner.base.units import format_gib, format_share
from planner.decision.method_search import Results
from planner.decision.remedies import shortage
from planner.decision.request import Request
from planner.decision.tiers import load_tiers, tier_gib
from planner.plan.vocabulary import METHOD_NAMES, METHODS, Method
from planner.search.candidate import Candidate
from planner.search.loss_attention_variants import Kind, departure_to
from planner.search.search import SearchResult
from planner.search.series_search import SeriesSearch
from planner.speed.card_rates import speed_data
from planner.workload.layout import Layout, Sharding, recomputation_order
from planner.workload.measured_ratios import TESTED

MAX_FALLBACKS = 4
SHOWN = 0.005
"""Share of a step's time from which a difference is told."""


class Alternative(Struct, frozen=True):
    """A candidate that was not chosen."""

    candidate: Candidate
    fits: bool
    reason: Reason
    """Why it was not chosen."""


def alternatives(request: Request, results: Results, chosen: Candidate) -> list[Alternative]:
    """Return every other method at its best, and of the chosen method every other strategy and
    choice of recomputation."""
    found = []
    for method in METHODS:
        if method not in results:
            continue
        if method == chosen.method:
            found += _same_method(request, results[method], chosen)
        else:
            found.append(_other_method(request, results[method], method, chosen))
    return found


def _other_method(
    request: Request, result: SearchResult, method: Method, chosen: Candidate
) -> Alternative:
    candidate = result.best or cast(Candidate, result.leanest)
    if result.best is None:
        return Alternative(candidate=candidate, fits=False, reason=_lacks(request, candidate))
    leaner = METHODS.index(method) < METHODS.index(chosen.method)
    if leaner and request.prefer in ("tiers", "quality"):
        reason = Reason("richer_method_fits", Phrase("fits; a richer method does too"))
        return Alternative(candidate=candidate, fits=True, reason=reason)
    return Alternative(candidate=candidate, fits=True, reason=_why_another(request, candidate))


def _why_another(request: Request, candidate: Candidate) -> Reason:
    recomputed = candidate.layout.recomputed
    ways = [Phrase("the {departure}", departure=departure) for departure in candidate.departures]
    if recomputed:
        ways.insert(0, Phrase("{recomputed} recomputed", recomputed=recomputed))
    how = Phrase(" with {ways}", ways=Joined(" and ", ways)) if ways else ""
    if request.prefer != "tiers":
        text = Phrase("fits{how}; --prefer {prefer} chose another", how=how, prefer=request.prefer)
        return Reason("another_preferred", text)
    threshold = load_tiers().threshold_bytes(candidate.method, request.model.spec.num_params)
    text = Phrase(
        "fits{how}; {name} is preferred from {threshold} GiB: --method {method}",
        how=how,
        name=METHOD_NAMES[candidate.method],
        threshold=tier_gib(threshold),
        method=candidate.method,
    )
    return Reason("tier_not_reached", text)


def _same_method(request: Request, result: SearchResult, chosen: Candidate) -> list[Alternative]:
    """Return the other choice of recomputation, every other strategy and number of copies, and the
    recipe's own loss and attention where the choice departs from them."""
    sharding, recomputes = chosen.layout.sharding, chosen.layout.activation_checkpointing
    found = [_other(request, result, chosen, sharding=sharding, recomputes=not recomputes)]
    for other in dict.fromkeys(search.layouts.sharding for search in result.series):
        if other != sharding:
            found.append(_other(request, result, chosen, sharding=other))
    if chosen.departures:
        found.append(_as_the_recipe_has_it(request, result, chosen))
    lines = [each for each in found if each is not None]
    fit = sorted((x for x in lines if x.fits), key=lambda each: each.candidate.rank)
    too_large = (x for x in lines if not x.fits)
    return [*fit, *sorted(too_large, key=lambda each: each.candidate.memory.high_bytes)]


def _other(
    request: Request,
    result: SearchResult,
    chosen: Candidate,
    *,
    sharding: Sharding,
    recomputes: bool | None = None,
) -> Alternative | None:
    """Return the best candidate of one strategy and number of copies, or the leanest where none
    fits."""

    def asked(search: SeriesSearch) -> bool:
        same = recomputes in (None, search.layouts.checkpointing > 0)
        return same and search.layouts.sharding == sharding

    return _best_of(request, result, chosen, asked)


def _as_the_recipe_has_it(
    request: Request, result: SearchResult, chosen: Candidate
) -> Alternative | None:
    found = _best_of(request, result, chosen, lambda search: not search.variant.departures)
    if found is None:
        return None
    own = found.candidate.workload
    kinds: dict[Kind, str] = {"loss": own.loss, "attention": own.attention}
    had = [
        departure_to(kind, name)
        for kind, name in kinds.items()
        if kind in " ".join(chosen.departures)
    ]
    reason = Joined(": ", [Joined(" and ", had), found.reason])
    return structs.replace(found, reason=Reason(found.reason.code, reason))


def _best_of(
    request: Request, result: SearchResult, chosen: Candidate, asked: Callable[[SeriesSearch], bool]
) -> Alternative | None:
    best = result.fastest(asked)
    if best is not None:
        return Alternative(candidate=best, fits=True, reason=_slower(best, chosen))
    leanest = result.leanest_of(asked)
    if leanest is None:
        return None
    return Alternative(candidate=leanest, fits=False, reason=_lacks(request, leanest))


def _slower(candidate: Candidate, chosen: Candidate) -> Reason:
    longer = candidate.usual_time_s / chosen.usual_time_s - 1
    if longer < -speed_data().told_apart.share:
        less = Phrase("fits; a step takes {share} less time", share=format_share(-longer))
        doubted = _doubted(candidate, chosen, less)
        if doubted is not None:
            return doubted
    if longer >= SHOWN:
        text = Phrase("fits; a step takes {share} longer", share=format_share(longer))
        return Reason("slower", text)
    as_fast = Phrase("as fast")
    if longer <= -SHOWN:
        as_fast = Phrase("a step takes {share} less time", share=format_share(-longer))
    if -2 * speed_data().told_apart.share < longer <= -SHOWN:
        as_fast += Phrase(", too little to be sure of")
    extra = candidate.memory.peak_allocated_bytes - chosen.memory.peak_allocated_bytes
    if extra > 0:
        text = Phrase("fits; {as_fast}, {gib} GiB more", as_fast=as_fast, gib=format_gib(extra))
        return Reason("as_fast_with_more_memory", text)
    text = Phrase("fits; {as_fast}, with more moving parts", as_fast=as_fast)
    return Reason("as_fast_with_more_parts", text)


def _doubted(candidate: Candidate, chosen: Candidate, less: Phrase) -> Reason | None:
    """Return why a faster layout was not taken, if its lead rests on what may be slower."""
    over_slow_links = candidate.ranking_time_s / chosen.ranking_time_s - 1
    if candidate.layout.strategy not in TESTED:
        text = Phrase("{less}, by a prediction that no published run tests", less=less)
        return Reason("lead_untested", text)
    if candidate.layout.is_sharded and not chosen.layout.is_sharded:
        text = Phrase("{less}, within the spread of DeepSpeed's runs", less=less)
        return Reason("lead_within_deepspeed_spread", text)
    if over_slow_links > 0:
        more = format_share(over_slow_links)
        text = Phrase("{less}, but {more} more over slow links", less=less, more=more)
        return Reason("slower_over_slow_links", text)
    return None


def _lacks(request: Request, candidate: Candidate) -> Reason:
    lack = shortage(request, candidate)
    if lack.on_host:
        text = Phrase("does not fit: {gib} GiB of host memory short", gib=lack.gib)
        return Reason("host_memory_short", text)
    return Reason("memory_short", Phrase("does not fit: {gib} GiB short", gib=lack.gib))


def fallbacks(result: SearchResult, chosen: Candidate) -> tuple[Candidate, ...]:
    """Return what to try after out of memory: ever leaner layouts of the same strategy and copies,
    the fastest first. None takes a larger micro-batch than the one before it, or keeps more."""
    steps = [chosen]
    pool = [
        candidate
        for search in result.series
        if search.layouts.sharding == chosen.layout.sharding
        and search.variant.workload == chosen.workload
        for candidate in search.candidates()
        if candidate.layout.micro_batch_size <= chosen.layout.micro_batch_size
    ]
    for candidate in sorted(pool, key=lambda c: (c.ranking_time_s, c.layout.micro_batch_size)):
        if len(steps) <= MAX_FALLBACKS and _leaner(candidate.layout, steps[-1].layout):
            peak = steps[-1].memory.peak_allocated_bytes
            if candidate.memory.peak_allocated_bytes < 0.95 * peak:
                steps.append(candidate)
    return tuple(steps[1:])


def _leaner(layout: Layout, than: Layout) -> bool:
    """Return whether a layout takes less, judged without pricing it."""
    ours, theirs = (recomputation_order(each.checkpointing) for each in (layout, than))
    no_more = layout.micro_batch_size <= than.micro_batch_size and ours <= theirs
    return no_more and layout != than
