"""What would make a request, or the next richer method, fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from planner.candidate import Candidate
from planner.machines import fewest_cards
from planner.plan import METHODS
from planner.request import Request, Results, describe_budget, search_method
from planner.units import format_gib

SHORTEST_USEFUL_LENGTH = 128
SMALLEST_USEFUL_RANK = 4
Options = Iterator[tuple[str, Request]]
"""What to write in the place of a part of the request, and the request then."""


def shortfall(request: Request, results: Results) -> str:
    """What is missing, and the nearest thing that would fit."""
    leanest = min(
        (result.leanest for result in results.values() if result.leanest is not None),
        key=lambda c: c.memory.high_bytes,
    )
    need = leanest.memory.high_bytes
    short = format_gib(need - request.budget_bytes)
    asked = f"--method {request.method}" if request.method else f"even {leanest.method}"
    return (
        f"{request.model.name} does not fit: {asked} needs {format_gib(need)} GiB at "
        f"{leanest.workload.recipe.sequence_length} tokens, and {describe_budget(request)} is "
        f"free: {short} GiB short. {_way_out(request, leanest)}"
    )


def _way_out(request: Request, leanest: Candidate) -> str:
    """The first change that was tried and fits: the least first."""
    for options in (
        _unpinned(request),
        _lower_ranks(request),
        _leaner_methods(request),
        _shorter(request, leanest),
    ):
        for words, changed in options:
            if _fits(changed):
                return f"{words} fits."
    count = _more_cards(request)
    if count is not None:
        return f"{count} such cards would carry it."
    return "Choose a smaller model or a larger card."


def _fits(request: Request) -> bool:
    return any(search_method(request, method).fits for method in request.methods)


def _unpinned(request: Request) -> Options:
    """What changes nothing of what is learned: each pinned option left open, then all of them."""
    changes: dict[str, dict[str, Any]] = {}
    for name in ("micro_batch_size", "loss", "attention", "zero_stage"):
        pinned = getattr(request, name)
        if pinned is not None:
            changes[f"--{name.replace('_', '-')} {pinned}"] = {name: None}
    if request.activation_checkpointing is False:
        changes["--no-activation-checkpointing"] = {"activation_checkpointing": None}
    if request.checkpoint_every not in (None, 1):
        changes[f"--checkpoint-every {request.checkpoint_every}"] = {"checkpoint_every": None}
    for option, change in changes.items():
        yield f"Without {option} it", replace(request, **change)
    if len(changes) > 1:
        together = {name: value for change in changes.values() for name, value in change.items()}
        yield f"Without {' and '.join(changes)} it", replace(request, **together)


def _lower_ranks(request: Request) -> Options:
    rank = request.lora_rank or 0
    while rank // 2 >= SMALLEST_USEFUL_RANK:
        rank //= 2
        yield f"--lora-rank {rank}", replace(request, lora_rank=rank)


def _leaner_methods(request: Request) -> Options:
    if request.recipe is None:
        for method in reversed(METHODS):
            if method not in request.methods:
                yield f"--method {method}", replace(request, method=method)


def _shorter(request: Request, leanest: Candidate) -> Options:
    length = leanest.workload.recipe.sequence_length // 2
    while length >= SHORTEST_USEFUL_LENGTH:
        yield f"--sequence-length {length}", replace(request, sequence_length=length)
        length //= 2


def _more_cards(request: Request) -> int | None:
    """The smallest number of the same cards that carries one of the methods."""
    if request.cluster.device == "cpu":
        return None
    here = request.cluster.gpus_per_node
    counts = (fewest_cards(request, method, more_than=here) for method in request.methods)
    return min((count for count in counts if count is not None), default=None)


def richer_method(request: Request, results: Results, chosen: Candidate) -> str | None:
    """What the next richer method lacks, where it was open to choice and does not fit."""
    for method in METHODS[METHODS.index(chosen.method) + 1 :]:
        result = results.get(method)
        if result is None or result.fits or result.leanest is None:
            continue
        short = format_gib(result.leanest.memory.high_bytes - request.budget_bytes)
        count = None
        if request.cluster.device == "cuda":
            count = fewest_cards(request, method, more_than=request.cluster.gpus_per_node)
        cards = f"; {count} such cards would carry it" if count is not None else ""
        return f"{method} lacks {short} GiB on each device{cards}"
    return None
