"""What would make a request, or the next richer method, fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from planner.base.units import format_gib
from planner.decision.method_search import Results, search_method
from planner.decision.model_parallelism import BRIEFLY, SENTENCE, must_be_split
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.decision.smallest_machines import CARD_COUNTS, fewest_cards
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHODS, Method
from planner.search.candidate import Candidate

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
    unit = "memory" if request.cluster.device == "cpu" else "each GPU"
    return (
        f"{request.model.name} does not fit: {asked} needs {format_gib(need)} GiB at "
        f"{leanest.workload.settings.sequence_length} tokens, and "
        f"{format_gib(request.budget_bytes)} GiB of {unit} is free: {short} GiB short. "
        f"{_way_out(request, leanest)}"
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
    if request.cluster.device == "cpu":
        return "Choose a smaller model, or a machine with more memory."
    return _more_cards(request) or _beyond_cards(request)


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
    length = leanest.workload.settings.sequence_length // 2
    while length >= SHORTEST_USEFUL_LENGTH:
        yield f"--sequence-length {length}", replace(request, sequence_length=length)
        length //= 2


def _more_cards(request: Request) -> str | None:
    """The smallest number of the same cards that carries it, or what is nearest to it."""
    count = _fewest(request)
    if count is not None:
        return f"{count} such cards would carry it."
    for words, changed in (*_unpinned(request), *_other_methods(request)):
        count = _fewest(changed)
        if count is not None:
            return f"{words} fits on {count} such cards."
    return None


def _fewest(request: Request) -> int | None:
    """For any of the methods open to choice."""
    here = request.cluster.gpus_per_node
    counts = (fewest_cards(request, method, more_than=here) for method in request.methods)
    return min((count for count in counts if count is not None), default=None)


def _other_methods(request: Request) -> Options:
    """A richer one is sharded where the leanest cannot be, unless a pin stands against that."""
    recipe = request.recipe
    others = [
        method
        for method in METHODS
        if method not in request.methods
        and (recipe is None or (recipe.adapter is not None and method != "full"))
    ]
    for method in others:
        yield f"--method {method}", replace(request, method=method)
    pins = {"--zero-stage": request.zero_stage, "--optimizer": request.optimizer}
    given = [f"{option} {value}" for option, value in pins.items() if value is not None]
    for method in others if given else []:
        words = f"--method {method} without {' and '.join(given)}"
        yield words, replace(request, method=method, zero_stage=None, optimizer=None)


def _beyond_cards(request: Request) -> str:
    """Where not even the most cards of one node do."""
    if request.cluster.accelerator.is_slice:
        return "A MIG slice trains alone: choose a larger slice, a whole GPU or a smaller model."
    if all(_must_be_split(request, method) for method in request.methods):
        return SENTENCE
    return (
        f"Not even {CARD_COUNTS[-1]} such cards would do: choose a smaller model or larger cards."
    )


def _must_be_split(request: Request, method: Method) -> bool:
    """Unknown of a model that would be traced for it; a slice is alone anyway."""
    if isinstance(request.model.spec, TracedSpec) or request.cluster.accelerator.is_slice:
        return False
    return must_be_split(workload(request, method), request.cluster, request.budget_bytes)


def richer_method(request: Request, results: Results, chosen: Candidate) -> str | None:
    """What the next richer method lacks, where it was open to choice and does not fit."""
    for method in METHODS[METHODS.index(chosen.method) + 1 :]:
        result = results.get(method)
        if result is None or result.fits or result.leanest is None:
            continue
        short = format_gib(result.leanest.memory.high_bytes - request.budget_bytes)
        return f"{method} lacks {short} GiB on each device{_cards_for(request, method)}"
    return None


def _cards_for(request: Request, method: Method) -> str:
    if request.cluster.device == "cpu":
        return ""
    count = fewest_cards(request, method, more_than=request.cluster.gpus_per_node)
    if count is not None:
        return f"; {count} such cards would carry it"
    return f"; {BRIEFLY}" if _must_be_split(request, method) else ""
