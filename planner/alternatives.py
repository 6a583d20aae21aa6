"""The ways not taken, each with its reason, and what to fall back to."""

from dataclasses import dataclass
from typing import cast

from planner.plan import METHODS, Method
from planner.request import Request, Results
from planner.search import Candidate, SearchResult
from planner.tiers import load_tiers
from planner.units import format_gib

MAX_FALLBACKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A way not taken."""

    candidate: Candidate
    fits: bool
    reason: str


def alternatives(request: Request, results: Results, chosen: Candidate) -> list[Alternative]:
    """Each other method at its best; of the chosen one, each other strategy and recomputation."""
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
    if METHODS.index(method) < METHODS.index(chosen.method):
        return Alternative(candidate=candidate, fits=True, reason="fits; a richer method does too")
    return Alternative(candidate=candidate, fits=True, reason=_why_not_richer(request, candidate))


def _why_not_richer(request: Request, candidate: Candidate) -> str:
    recomputed = candidate.layout.recomputed
    how = f" with activation checkpointing of {recomputed}" if recomputed else ""
    if request.prefer != "tiers":
        return f"fits{how}; --prefer {request.prefer} chose another"
    threshold = load_tiers().threshold_bytes(candidate.method, request.model.spec.num_params)
    return (
        f"fits{how}; its tier starts at {format_gib(threshold, 0)} GiB in all: "
        f"take it with --method {candidate.method}"
    )


def _same_method(request: Request, result: SearchResult, chosen: Candidate) -> list[Alternative]:
    """One line for each other strategy, and one for the other choice of recomputation."""
    every = sorted([*result.fitting, *result.too_large], key=lambda c: (c.rank, c.layout.strategy))
    lines = []
    seen = {(chosen.layout.strategy, chosen.layout.activation_checkpointing)}
    for fits in (True, False):
        for candidate in every:
            layout = candidate.layout
            key = (layout.strategy, layout.activation_checkpointing)
            if key in seen or candidate.fits(request.budget_bytes) != fits:
                continue
            other_strategy = layout.strategy != chosen.layout.strategy
            if other_strategy and any(strategy == layout.strategy for strategy, _ in seen):
                continue
            seen.add(key)
            shown = candidate if fits else _leanest_of(every, key)
            reason = _slower(shown, chosen) if fits else _lacks(request, shown)
            lines.append(Alternative(candidate=shown, fits=fits, reason=reason))
    return lines


def _leanest_of(every: list[Candidate], key: tuple[str, bool]) -> Candidate:
    same = (c for c in every if (c.layout.strategy, c.layout.activation_checkpointing) == key)
    return min(same, key=lambda c: c.memory.high_bytes)


def _slower(candidate: Candidate, chosen: Candidate) -> str:
    longer = candidate.ranking_time_s / chosen.ranking_time_s - 1
    if longer >= 0.005:
        return f"fits; a step takes {longer:.0%} longer"
    extra = candidate.memory.peak_allocated_bytes - chosen.memory.peak_allocated_bytes
    if extra > 0:
        return f"fits; as fast, {format_gib(extra)} GiB more"
    return "fits; as fast, with more moving parts"


def _lacks(request: Request, candidate: Candidate) -> str:
    short = candidate.memory.high_bytes - request.budget_bytes
    return f"does not fit: {format_gib(short)} GiB short"


def fallbacks(result: SearchResult, chosen: Candidate) -> tuple[Candidate, ...]:
    """On out of memory: ever leaner layouts of the same method, the fastest of each step."""
    steps: list[Candidate] = []
    peak = chosen.memory.peak_allocated_bytes
    for candidate in sorted([*result.fitting, *result.too_large], key=lambda c: c.rank):
        if candidate.memory.peak_allocated_bytes < 0.95 * peak:
            steps.append(candidate)
            peak = candidate.memory.peak_allocated_bytes
    return tuple(steps[:MAX_FALLBACKS])
