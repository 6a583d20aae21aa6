"""Which of the methods that fit, and why."""

from collections.abc import Iterator

from planner.base.phrases import Joined, Phrase, Reason
from planner.base.units import format_count
from planner.decision.method_search import Results, search_method
from planner.decision.request import Request
from planner.decision.tiers import load_tiers, tier_gib
from planner.plan.vocabulary import METHOD_NAMES, METHODS, Method
from planner.search.candidate import Candidate

Best = dict[Method, Candidate]
"""The best candidate of each method that fits, the leanest method first."""


def choose(request: Request, results: Results) -> tuple[Candidate, Reason]:
    """Return the candidate that the request prefers, and the reason in words.

    At least one of the methods must fit.
    """
    best: Best = {}
    for method in METHODS:
        candidate = results[method].best if method in results else None
        if candidate is not None:
            best[method] = candidate
    return _preferred(request, results, best)


def _preferred(request: Request, results: Results, best: Best) -> tuple[Candidate, Reason]:
    if len(request.methods) == 1:
        asked = request.method is not None or request.recipe is None
        given = Phrase("asked for") if asked else Phrase("the recipe's method")
        text = Phrase("{given}; the simplest of the fastest that fit", given=given)
        return best[request.methods[0]], Reason("only_method", text)
    if request.prefer == "quality":
        return list(best.values())[-1], Reason("richest", Phrase("the richest method that fits"))
    if request.prefer == "speed":
        fastest = min(best.values(), key=lambda candidate: candidate.rank)
        return fastest, Reason("fastest", Phrase("the most tokens per second of all methods"))
    if request.prefer == "memory":
        text = Phrase("the smallest peak of all methods")
        return _smallest(request, results), Reason("smallest", text)
    return _by_tiers(request, results, best)


def _smallest(request: Request, results: Results) -> Candidate:
    """Return the fastest of those that have the smallest peak of all."""
    leanest = [r.leanest for r in results.values() if r.fits and r.leanest is not None]
    peak = min(candidate.memory.peak_allocated_bytes for candidate in leanest)
    every = (search_method(request, method, peak_bytes=peak).best for method in results)
    return min((c for c in every if c is not None), key=lambda candidate: candidate.rank)


def _by_tiers(request: Request, results: Results, best: Best) -> tuple[Candidate, Reason]:
    """Return the richest method whose tier the machine reaches and that fits, else the leanest
    that fits."""
    total, params = request.cluster.nominal_bytes, request.model.spec.num_params
    starts = {method: load_tiers().threshold_bytes(method, params) for method in METHODS}
    reached = [method for method in METHODS if total >= starts[method]]
    fitting = [method for method in reached if method in best]
    method = fitting[-1] if fitting else next(iter(best))
    first, *others = METHODS
    gib = {method: tier_gib(starts[method]) for method in METHODS}
    begins = [
        Phrase("{method} is preferred from {gib}", method=METHOD_NAMES[first], gib=gib[first])
    ]
    begins += [
        Phrase("{method} from {gib}", method=METHOD_NAMES[each], gib=gib[each]) for each in others
    ]
    tiers = Phrase(
        "{total} GiB; for {params} parameters {begins}",
        total=tier_gib(total),
        params=format_count(params),
        begins=Joined(", ", begins),
    )
    passed_over = list(_passed_over(reached, method, results, best))
    if not fitting:
        name = METHOD_NAMES[method]
        passed_over.append(Phrase("{method} is the leanest method that fits", method=name))
    return best[method], Reason("tiers", Joined("; ", [tiers, *passed_over]))


def _passed_over(
    reached: list[Method], chosen: Method, results: Results, best: Best
) -> Iterator[str]:
    """Yield why a method was not taken although the machine reaches its tier."""
    for method in reached:
        leaner = chosen in reached and METHODS.index(method) < METHODS.index(chosen)
        if method in best or leaner:
            continue
        name = METHOD_NAMES[method]
        if method in results:
            yield Phrase("{method} does not fit", method=name)
        else:
            yield Phrase("{method} is ruled out", method=name)
