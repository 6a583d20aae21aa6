"""Which of the methods that fit, and why."""

from planner.base.units import format_gib
from planner.decision.method_search import Results, search_method
from planner.decision.request import Request
from planner.decision.tiers import load_tiers
from planner.plan.vocabulary import METHODS, Method
from planner.search.candidate import Candidate


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
