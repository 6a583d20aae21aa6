"""What would make a request, or the next richer method, fit. Every remedy named was tried."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, structs

from planner.base.phrases import Joined, Phrase
from planner.base.units import format_gib
from planner.decision.method_search import Results, search_method
from planner.decision.model_parallelism import BRIEFLY, SENTENCE, fewest_cut, must_be_split
from planner.decision.request import Request
from planner.decision.requested_workload import adapted_experts, workload
from planner.decision.smallest_machines import CARD_COUNTS, fewest_cards, hosts_of
from planner.hardware.cluster import Cluster
from planner.models.traced_model import TracedSpec
from planner.plan.bounds import RANKS_OF_EXPERTS
from planner.plan.vocabulary import (
    METHOD_NAMES,
    METHODS,
    OFFLOADS_WITH,
    WITHOUT_STAGE,
    ZERO_STAGE,
    Method,
    Offload,
)
from planner.recipes.load_recipe import load_recipe
from planner.search.candidate import Candidate

LAST_RESORTS: tuple[Offload, ...] = ("optimizer", "all")
SHORTEST_USEFUL_LENGTH = 128
SMALLEST_USEFUL_RANK = 4
Options = Iterator[tuple[str, Request]]
"""Words for a changed request, and the request."""


class Shortage(Struct, frozen=True):
    """The memory that a candidate needs and what there is of it, of a device or of the host."""

    needed_bytes: int
    available_bytes: int
    on_host: bool

    @property
    def gib(self) -> str:
        """GiB that are missing."""
        return format_gib(self.needed_bytes - self.available_bytes)


def shortage(request: Request, candidate: Candidate) -> Shortage:
    """Return what a candidate that does not fit lacks: the device's memory, or where that is
    enough the host's."""
    needed, budget = candidate.memory.high_bytes, request.budget_bytes
    host = request.cluster.host_ram_bytes
    if needed > budget or host is None or request.cluster.accelerator.unified_memory:
        return Shortage(needed, budget, on_host=False)
    return Shortage(candidate.host.node_bytes, host, on_host=True)


def shortfall(request: Request, results: Results) -> str:
    """Return the sentence that says how much is missing, and the nearest request that fits."""
    leanest = min(
        (result.leanest for result in results.values() if result.leanest is not None),
        key=lambda c: c.memory.high_bytes,
    )
    lack = shortage(request, leanest)
    asked: str = Phrase("even {method}", method=METHOD_NAMES[leanest.method])
    if request.method:
        asked = f"--method {request.method}"
    of_host = Phrase(" of host memory") if lack.on_host else ""
    return Phrase(
        "{model} does not fit: {asked} needs {needed} GiB{of_host} at {length:,} tokens, and "
        "{available}: {gib} GiB short. {way_out}",
        model=request.model.name,
        asked=asked,
        needed=format_gib(lack.needed_bytes),
        of_host=of_host,
        length=leanest.workload.settings.sequence_length,
        available=_available(request, lack),
        gib=lack.gib,
        way_out=_way_out(request, leanest),
    )


def _available(request: Request, lack: Shortage) -> str:
    """Return how much there is, whose it is, and why there is no more, in words."""
    gib = format_gib(lack.available_bytes)
    if lack.on_host:
        return Phrase("{gib} GiB can be used", gib=gib)
    limited = request.budget_bytes < request.cluster.accelerator.free_bytes
    if _has_one_memory(request):
        if limited:
            return Phrase("{gib} GiB of memory is allowed by --memory-limit", gib=gib)
        return Phrase("{gib} GiB of memory is free", gib=gib)
    if limited:
        return Phrase("{gib} GiB of each GPU is allowed by --memory-limit", gib=gib)
    return Phrase("{gib} GiB of each GPU is free", gib=gib)


def _has_one_memory(request: Request) -> bool:
    """Return whether device and host share one memory, which further devices do not add to."""
    return request.cluster.device == "cpu" or request.cluster.accelerator.unified_memory


def _way_out(request: Request, leanest: Candidate) -> str:
    """Return what fits: the first change, the smallest changes first, and offload where the host is
    unknown."""
    return Joined(" ", filter(None, [_change(request, leanest), _with_offload(request)]))


def _with_offload(request: Request) -> str | None:
    """Return the offload that fits and what it takes of the host, whose memory is unknown; where it
    is known, offload was tried before."""
    if request.cluster.host_ram_bytes is not None:
        return None
    tried: list[tuple[str, Request]] = []
    for changed in activation_offloading(request):
        tried.append(("--activation-offloading", changed))
        both = "--activation-offloading --tiled-mlp"
        tried += [(both, tiled) for tiled in tiled_mlp(changed)]
    tried += [(f"--offload {changed.offload}", changed) for changed in offloads(request)]
    for option, changed in tried:
        fitting = (search_method(changed, method).best for method in request.methods)
        found = next((candidate for candidate in fitting if candidate is not None), None)
        if found is not None:
            return Phrase(
                "With {gib} GiB of host memory, {option} fits.",
                gib=format_gib(found.host.node_bytes),
                option=option,
            )
    return None


def activation_offloading(request: Request) -> Iterator[Request]:
    """Yield the request with activations that wait on the host, if it leaves that open and there is
    a device whose memory is its own."""
    spec = request.model.spec
    recomputes = request.activation_checkpointing is not False and spec.can_recompute
    if (
        request.activation_offloading is None
        and not _has_one_memory(request)
        and recomputes
        and not isinstance(spec, TracedSpec)
    ):
        yield structs.replace(request, activation_offloading=True)


def tiled_mlp(request: Request) -> Iterator[Request]:
    """Yield the request with MLPs that run tile by tile, if it leaves that open and the model has
    such."""
    spec = request.model.spec
    if request.tiled_mlp is None and not isinstance(spec, TracedSpec) and spec.can_tile_mlp:
        yield structs.replace(request, tiled_mlp=True)


def offloads(request: Request) -> Iterator[Request]:
    """Yield the request with each kind of offload that it leaves open, the one that moves less
    first; none where host and device share their memory."""
    stage = request.zero_stage
    open_ones = [
        name
        for name in ZERO_STAGE
        if request.strategy in (None, name)
        and (stage is None or (name not in WITHOUT_STAGE and ZERO_STAGE[name] == stage))
    ]
    if request.offload is None and not _has_one_memory(request):
        for offload in LAST_RESORTS:
            if any(name in OFFLOADS_WITH[offload] for name in open_ones):
                yield structs.replace(request, offload=offload)


def _change(request: Request, leanest: Candidate) -> str:
    """Return the first change that fits, the smallest changes first."""
    for options in (
        _unpinned(request),
        _lower_ranks(request),
        _leaner_methods(request),
        _leaner_bases(request),
        _shorter(request, leanest),
    ):
        for words, changed in options:
            if _fits(changed):
                return Phrase("{change} fits.", change=words)
    if _has_one_memory(request) or shortage(request, leanest).on_host:
        return Phrase("Choose a smaller model, or a machine with more memory.")
    return _more_cards(request) or _beyond_cards(request)


def _fits(request: Request) -> bool:
    return any(search_method(request, method).fits for method in request.methods)


def _unpinned(request: Request) -> Options:
    """Yield requests that train the same model: with each set option dropped in turn, then with all
    dropped."""
    changes: dict[str, dict[str, Any]] = {}
    for name in ("micro_batch_size", "loss", "attention", "strategy", "zero_stage", "offload"):
        pinned = getattr(request, name)
        if pinned is not None:
            changes[f"--{name.replace('_', '-')} {pinned}"] = {name: None}
    kept, offloaded = request.activation_checkpointing is False, request.activation_offloading
    every, limited = request.checkpoint_every, request.memory_limit_bytes is not None
    pins: tuple[tuple[str, str, object], ...] = (
        ("--no-activation-checkpointing", "activation_checkpointing", kept),
        ("--activation-offloading", "activation_offloading", offloaded),
        ("--tiled-mlp", "tiled_mlp", request.tiled_mlp),
        (f"--checkpoint-every {every}", "checkpoint_every", every not in (None, 1)),
        ("--memory-limit", "memory_limit_bytes", limited),
    )
    changes |= {option: {name: None} for option, name, pinned in pins if pinned}
    for option, change in changes.items():
        yield Phrase("Without {option} it", option=option), structs.replace(request, **change)
    if len(changes) > 1:
        together = {name: value for change in changes.values() for name, value in change.items()}
        words = Phrase("Without {option} it", option=Joined(" and ", changes))
        yield words, structs.replace(request, **together)


def _lower_ranks(request: Request) -> Options:
    rank = request.lora_rank or 0
    while rank // 2 >= SMALLEST_USEFUL_RANK:
        rank //= 2
        if rank % RANKS_OF_EXPERTS and _adapts_experts(request):
            return
        yield f"--lora-rank {rank}", structs.replace(request, lora_rank=rank)


def _adapts_experts(request: Request) -> bool:
    adapters = (request.recipe_for(method).adapter for method in request.methods)
    return any(each is not None and adapted_experts(request, each) for each in adapters)


def _leaner_methods(request: Request) -> Options:
    if request.recipe is None:
        for method in reversed(METHODS):
            if method not in request.methods:
                yield f"--method {method}", structs.replace(request, method=method)
                if request.offload not in (None, "none"):
                    words = Phrase(
                        "--method {method} without {options}",
                        method=method,
                        options=f"--offload {request.offload}",
                    )
                    yield words, structs.replace(request, method=method, offload=None)


def _leaner_bases(request: Request) -> Options:
    """Yield the request with a base in 4 bit instead of 8, which packs routed experts, too."""
    recipe = request.recipe
    quantization = None if recipe is None else recipe.quantization
    if quantization is not None and quantization.quant_type == "int8":
        yield "--recipe qlora", structs.replace(request, recipe=load_recipe("qlora"))


def _shorter(request: Request, leanest: Candidate) -> Options:
    length = leanest.workload.settings.sequence_length // 2
    while length >= SHORTEST_USEFUL_LENGTH:
        yield f"--sequence-length {length}", structs.replace(request, sequence_length=length)
        length //= 2


def _more_cards(request: Request) -> str | None:
    """Return the smallest number of the same cards that fits the request or one near it."""
    count = _fewest(request)
    if count is not None:
        return Phrase("It fits on {cards}.", cards=_such_cards(count))
    for words, changed in (*_unpinned(request), *_other_methods(request)):
        count = _fewest(changed)
        if count is not None:
            return Phrase("{change} fits on {cards}.", change=words, cards=_such_cards(count))
    return None


def _fewest(request: Request) -> int | None:
    """Return the fewest such cards on which any allowed method fits."""
    here = request.cluster.gpus_per_node
    counts = (fewest_cards(request, method, more_than=here) for method in request.methods)
    return min((count for count in counts if count is not None), default=None)


def _such_cards(count: int) -> str:
    hosts = hosts_of(count)
    if hosts == 1:
        return Phrase("{count} such cards", count=count)
    each = count // hosts
    return Phrase("{hosts} hosts with {count} such cards each", hosts=hosts, count=each)


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
        yield f"--method {method}", structs.replace(request, method=method)
    pins = {
        "--strategy": request.strategy,
        "--zero-stage": request.zero_stage,
        "--optimizer": request.optimizer,
    }
    given = [f"{option} {value}" for option, value in pins.items() if value is not None]
    for method in others if given else []:
        without = Joined(" and ", given)
        words = Phrase("--method {method} without {options}", method=method, options=without)
        freed = structs.replace(
            request, method=method, strategy=None, zero_stage=None, optimizer=None
        )
        yield words, freed


def _beyond_cards(request: Request) -> str:
    """Return what to say where not even the most cards of one node are enough."""
    if request.cluster.accelerator.is_slice:
        return Phrase(
            "Several MIG slices cannot train together: choose a larger slice, a whole "
            "GPU or a smaller model."
        )
    if all(_must_be_split(request, method) for method in request.methods):
        cut = (fewest_cut(workload(request, each), *_where(request)) for each in request.methods)
        count = min((found for found in cut if found is not None), default=None)
        if count is None:
            return SENTENCE
        return Phrase(
            "It fits on {cards} of one node with --strategy tensor, which cuts each layer over "
            "them.",
            cards=_such_cards(count),
        )
    return Phrase(
        "It does not fit on {cards} either: choose a smaller model or larger cards.",
        cards=_such_cards(CARD_COUNTS[-1]),
    )


def _must_be_split(request: Request, method: Method) -> bool:
    """Return whether layers would have to be split; False where that is unknown (a traced model)
    or where no other device can join (a MIG slice)."""
    if isinstance(request.model.spec, TracedSpec) or request.cluster.accelerator.is_slice:
        return False
    return must_be_split(workload(request, method), *_where(request))


def _where(request: Request) -> tuple[Cluster, int]:
    return request.cluster, request.budget_bytes


def richer_method(request: Request, results: Results, chosen: Candidate) -> str | None:
    """Return what the next richer method lacks; None where all that are open fit."""
    for method in METHODS[METHODS.index(chosen.method) + 1 :]:
        result = results.get(method)
        if result is None or result.fits or result.leanest is None:
            continue
        lack = shortage(request, result.leanest)
        more = Phrase("{method} needs {gib} GiB more", method=METHOD_NAMES[method], gib=lack.gib)
        if lack.on_host:
            return more + Phrase(" of host memory")
        per = "" if _has_one_memory(request) else Phrase(" per GPU")
        return more + per + _cards_for(request, method)
    return None


def _cards_for(request: Request, method: Method) -> str:
    if _has_one_memory(request):
        return ""
    count = fewest_cards(request, method, more_than=request.cluster.gpus_per_node)
    if count is not None:
        return Phrase("; it fits on {cards}", cards=_such_cards(count))
    if not _must_be_split(request, method):
        return ""
    cut = fewest_cut(workload(request, method), *_where(request))
    if cut is None:
        return "; " + BRIEFLY
    return Phrase("; it fits on {cards} of one node with --strategy tensor", cards=_such_cards(cut))
