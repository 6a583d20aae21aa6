"""What would make a request, or the next richer method, fit. Every remedy named was tried."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from planner.base.units import format_gib
from planner.decision.method_search import Results, search_method
from planner.decision.model_parallelism import BRIEFLY, SENTENCE, must_be_split
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.decision.shortage import Shortage, shortage
from planner.decision.smallest_machines import CARD_COUNTS, fewest_cards
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHOD_NAMES, METHODS, Method
from planner.search.candidate import Candidate

SHORTEST_USEFUL_LENGTH = 128
SMALLEST_USEFUL_RANK = 4
Options = Iterator[tuple[str, Request]]
"""Words for a changed request, and the request."""


def shortfall(request: Request, results: Results) -> str:
    """Return the sentence that says how much is missing, and the nearest request that fits."""
    leanest = min(
        (result.leanest for result in results.values() if result.leanest is not None),
        key=lambda c: c.memory.high_bytes,
    )
    lack = shortage(request, leanest)
    asked = (
        f"--method {request.method}" if request.method else f"even {METHOD_NAMES[leanest.method]}"
    )
    length = f"{leanest.workload.settings.sequence_length:,} tokens"
    have = f"{format_gib(lack.available_bytes)} GiB {_available(request, lack)}"
    of_host = " of host memory" if lack.on_host else ""
    return (
        f"{request.model.name} does not fit: {asked} needs {format_gib(lack.needed_bytes)} GiB"
        f"{of_host} at {length}, and {have}: {lack.gib} GiB short. {_way_out(request, leanest)}"
    )


def _available(request: Request, lack: Shortage) -> str:
    """Return whose memory it is, and why no more of it is available, in words."""
    if lack.on_host:
        return "can be used"
    unit = "memory" if _has_one_memory(request) else "each GPU"
    limited = request.budget_bytes < request.cluster.accelerator.free_bytes
    return f"of {unit} is {'allowed by --memory-limit' if limited else 'free'}"


def _has_one_memory(request: Request) -> bool:
    """Return whether device and host share one memory, which further devices do not add to."""
    return request.cluster.device == "cpu" or request.cluster.accelerator.unified_memory


def _way_out(request: Request, leanest: Candidate) -> str:
    """Return the first change that fits, the smallest changes first."""
    for options in (
        _unpinned(request),
        _lower_ranks(request),
        _leaner_methods(request),
        _shorter(request, leanest),
    ):
        for words, changed in options:
            if _fits(changed):
                return f"{words} fits."
    if _has_one_memory(request) or shortage(request, leanest).on_host:
        return "Choose a smaller model, or a machine with more memory."
    return _more_cards(request) or _beyond_cards(request)


def _fits(request: Request) -> bool:
    return any(search_method(request, method).fits for method in request.methods)


def _unpinned(request: Request) -> Options:
    """Yield requests that train the same model: with each set option dropped in turn, then with all
    dropped."""
    changes: dict[str, dict[str, Any]] = {}
    for name in ("micro_batch_size", "loss", "attention", "zero_stage", "offload"):
        pinned = getattr(request, name)
        if pinned is not None:
            changes[f"--{name.replace('_', '-')} {pinned}"] = {name: None}
    if request.activation_checkpointing is False:
        changes["--no-activation-checkpointing"] = {"activation_checkpointing": None}
    if request.checkpoint_every not in (None, 1):
        changes[f"--checkpoint-every {request.checkpoint_every}"] = {"checkpoint_every": None}
    if request.memory_limit_bytes is not None:
        changes["--memory-limit"] = {"memory_limit_bytes": None}
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
                if request.offload not in (None, "none"):
                    words = f"--method {method} without --offload {request.offload}"
                    yield words, replace(request, method=method, offload=None)


def _shorter(request: Request, leanest: Candidate) -> Options:
    length = leanest.workload.settings.sequence_length // 2
    while length >= SHORTEST_USEFUL_LENGTH:
        yield f"--sequence-length {length}", replace(request, sequence_length=length)
        length //= 2


def _more_cards(request: Request) -> str | None:
    """Return the smallest number of the same cards that fits the request or one near it."""
    count = _fewest(request)
    if count is not None:
        return f"It fits on {count} such cards."
    for words, changed in (*_unpinned(request), *_other_methods(request)):
        count = _fewest(changed)
        if count is not None:
            return f"{words} fits on {count} such cards."
    return None


def _fewest(request: Request) -> int | None:
    """Return the fewest such cards on which any allowed method fits."""
    here = request.cluster.gpus_per_node
    counts = (fewest_cards(request, method, more_than=here) for method in request.methods)
    return min((count for count in counts if count is not None), default=None)


def _other_methods(request: Request) -> Options:
    """Yield other methods: a richer one is sharded where the leanest cannot be, unless an option
    stands against that."""
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
    """Return what to say where not even the most cards of one node are enough."""
    if request.cluster.accelerator.is_slice:
        return (
            "Several MIG slices cannot train together: choose a larger slice, a whole GPU or a "
            "smaller model."
        )
    if all(_must_be_split(request, method) for method in request.methods):
        return SENTENCE
    return (
        f"It does not fit on {CARD_COUNTS[-1]} such cards either: choose a smaller model or larger "
        "cards."
    )


def _must_be_split(request: Request, method: Method) -> bool:
    """Return whether layers would have to be split; False where that is unknown (a traced model)
    or where no other device can join (a MIG slice)."""
    if isinstance(request.model.spec, TracedSpec) or request.cluster.accelerator.is_slice:
        return False
    return must_be_split(workload(request, method), request.cluster, request.budget_bytes)


def richer_method(request: Request, results: Results, chosen: Candidate) -> str | None:
    """Return what the next richer method lacks; None where all that are open fit."""
    for method in METHODS[METHODS.index(chosen.method) + 1 :]:
        result = results.get(method)
        if result is None or result.fits or result.leanest is None:
            continue
        lack = shortage(request, result.leanest)
        more = f"{METHOD_NAMES[method]} needs {lack.gib} GiB more"
        if lack.on_host:
            return f"{more} of host memory"
        per = "" if _has_one_memory(request) else " per GPU"
        return f"{more}{per}{_cards_for(request, method)}"
    return None


def _cards_for(request: Request, method: Method) -> str:
    if _has_one_memory(request):
        return ""
    count = fewest_cards(request, method, more_than=request.cluster.gpus_per_node)
    if count is not None:
        return f"; it fits on {count} such cards"
    return f"; {BRIEFLY}" if _must_be_split(request, method) else ""
