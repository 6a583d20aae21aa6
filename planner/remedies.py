"""What would make a request, or the next richer method, fit."""

from dataclasses import replace

from planner.candidate import Candidate
from planner.plan import METHODS, Method, OptimizerName
from planner.request import Request, Results, describe_budget, search_method
from planner.units import format_gib

CARD_COUNTS = (2, 4, 8, 16, 32, 64)
SHORTEST_USEFUL_LENGTH = 128
LEANER_OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw_8bit", "paged_adamw_8bit")
"""AdamW still, with smaller states; the first is the faster."""


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
    """The first change that helps: a leaner optimizer or method, fewer tokens, more cards."""
    option = _leaner_optimizer(request) or _leaner_method(request) or _shorter(request, leanest)
    if option is not None:
        return f"{option} fits."
    count = _cards_needed(request, request.methods)
    if count is not None:
        return f"{count} such cards would carry it."
    return "Choose a smaller model or a larger card."


def _fits(request: Request) -> bool:
    return any(search_method(request, method).fits for method in request.methods)


def _leaner_optimizer(request: Request) -> str | None:
    if request.optimizer is not None:
        return None
    fitting = (n for n in LEANER_OPTIMIZERS if _fits(replace(request, optimizer=n)))
    name = next(fitting, None)
    return None if name is None else f"--optimizer {name}"


def _leaner_method(request: Request) -> str | None:
    if request.recipe is not None:
        return None
    for method in reversed(METHODS):
        if method not in request.methods and _fits(replace(request, method=method)):
            return f"--method {method}"
    return None


def _shorter(request: Request, leanest: Candidate) -> str | None:
    length = leanest.workload.recipe.sequence_length // 2
    while length >= SHORTEST_USEFUL_LENGTH:
        if _fits(replace(request, sequence_length=length)):
            return f"--sequence-length {length}"
        length //= 2
    return None


def _cards_needed(request: Request, methods: tuple[Method, ...]) -> int | None:
    """The smallest number of the same cards that carries one of the methods."""
    if request.cluster.device == "cpu":
        return None
    for count in CARD_COUNTS:
        if count <= request.cluster.gpus_per_node:
            continue
        larger = replace(
            request,
            cluster=replace(request.cluster, gpus_per_node=count),
            global_batch_size=None,
            micro_batch_size=None,
        )
        if any(search_method(larger, method).fits for method in methods):
            return count
    return None


def richer_method(request: Request, results: Results, chosen: Candidate) -> str | None:
    """What the next richer method lacks, where it was open to choice and does not fit."""
    for method in METHODS[METHODS.index(chosen.method) + 1 :]:
        result = results.get(method)
        if result is None or result.fits or result.leanest is None:
            continue
        short = format_gib(result.leanest.memory.high_bytes - request.budget_bytes)
        count = _cards_needed(request, (method,))
        cards = f"; {count} such cards would carry it" if count is not None else ""
        return f"{method} lacks {short} GiB on each device{cards}"
    return None
