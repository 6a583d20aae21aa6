"""Which of the methods that fit, and why."""

from collections.abc import Iterator

from planner.base.units import format_count
from planner.decision.method_search import Results, search_method
from planner.decision.request import Request
from planner.decision.tiers import load_tiers, tier_gib
from planner.plan.vocabulary import METHOD_NAMES, METHODS, Method
from planner.search.candidate import Candidate

Best = dict[Method, Candidate]
"""The best candidate of each method that fits, the leanest method first."""


def choose(request: Request, results: Results) -> tuple[Candidate, str]:
    """Return the candidate that the request prefers, and the reason in words.

    At least one of the methods must fit.
    """
    best: Best = {}
    for method in METHODS:
        candidate = results[method].best if method in results else None
        if candidate is not None:
            best[method] = candidate
    return _preferred(request, results, best)


def _preferred(request: Request, results: Results, best: Best) -> tuple[Candidate, str]:
    if len(request.methods) == 1:
        asked = request.method is not None or request.recipe is None
        given = "asked for" if asked else "the recipe's method"
        return best[request.methods[0]], f"{given}; the simplest of the fastest that fit"
    if request.prefer == "quality":
        return list(best.values())[-1], "the richest method that fits"
    if request.prefer == "speed":
        fastest = min(best.values(), key=lambda candidate: candidate.rank)
        return fastest, "the most tokens per second of all methods"
    if request.prefer == "memory":
        return _smallest(request, results), "the smallest peak of all methods"
    return _by_tiers(request, results, best)


def _smallest(request: Request, results: Results) -> Candidate:
    """Return the fastest of those that have the smallest peak of all."""
    leanest = [r.leanest for r in results.values() if r.fits and r.leanest is not None]
    peak = min(candidate.memory.peak_allocated_bytes for candidate in leanest)
    every = (search_method(request, method, peak_bytes=peak).best for method in results)
    return min((c for c in every if c is not None), key=lambda candidate: candidate.rank)


def _by_tiers(request: Request, results: Results, best: Best) -> tuple[Candidate, str]:
    """Return the richest method whose tier the machine reaches and that fits, else the leanest
    that fits."""
    total, params = request.cluster.nominal_bytes, request.model.spec.num_params
    starts = {method: load_tiers().threshold_bytes(method, params) for method in METHODS}
    reached = [method for method in METHODS if total >= starts[method]]
    fitting = [method for method in reached if method in best]
    method = fitting[-1] if fitting else next(iter(best))
    first, *others = METHODS
    begins = [f"{METHOD_NAMES[first]} starts at {tier_gib(starts[first])}"]
    begins += [f"{METHOD_NAMES[each]} at {tier_gib(starts[each])}" for each in others]
    tiers = f"{tier_gib(total)} GiB; for {format_count(params)} parameters {', '.join(begins)}"
    passed_over = list(_passed_over(reached, method, results, best))
    if not fitting:
        passed_over.append(f"{METHOD_NAMES[method]} is the leanest method that fits")
    return best[method], "; ".join([tiers, *passed_over])


def _passed_over(
    reached: list[Method], chosen: Method, results: Results, best: Best
) -> Iterator[str]:
    """Yield why a method was not taken although the machine reaches its tier."""
    for method in reached:
        leaner = chosen in reached and METHODS.index(method) < METHODS.index(chosen)
        if method in best or leaner:
            continue
        why = "does not fit" if method in results else "is ruled out"
        yield f"{METHOD_NAMES[method]} {why}"
