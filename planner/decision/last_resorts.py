"""The last resorts if no candidate fits with the recipe's settings: leaner optimizer states,
MLPs that run tile by tile, sequences that several GPUs share, activations that wait on the host,
then offloaded states; and where none of that is enough, layers that are cut over the devices."""

from collections.abc import Iterator

from msgspec import structs

from planner.base.errors import NothingFitsError
from planner.base.phrases import Phrase
from planner.decision.method_search import Results, possible_methods
from planner.decision.preference import choose
from planner.decision.remedies import activation_offloading, offloads, shortfall, tiled_mlp
from planner.decision.request import Request
from planner.models.traced_model import TracedSpec

LEANER_OPTIMIZERS: tuple[str, ...] = ("adamw_8bit", "paged_adamw_8bit")
"""AdamW still, with smaller states; the first is the faster."""


Resorts = Iterator[tuple[Request, str]]
"""Requests of one kind, each with a description."""
Resort = tuple[Request, Results, str]
"""A request that something fits, what was found for it, and its description."""


def last_resort(request: Request, results: Results) -> Resort:
    """Return the fastest last resort that fits if no candidate does with the recipe's optimizer on
    the devices, and its description: states in 8 bit, which changes the mathematics, MLPs in tiles,
    sequences that GPUs share, or activations or states on the host.

    Raises NothingFitsError where none fits.
    """
    found = []
    kinds = (
        _leaner_optimizers(request),
        _tiles(request),
        _shared_sequences(request),
        _waiting_activations(request),
        _offloads(request),
    )
    for kind in kinds:
        resort = _first_that_fits(kind)
        if resort is not None:
            changed, other, _ = resort
            chosen, _ = choose(changed, other)
            found.append((chosen.ranking_time_s, resort))
    if found:
        return min(found, key=lambda each: each[0])[1]
    resort = _first_that_fits(_cut_layers(request))
    if resort is None:
        raise NothingFitsError(shortfall(request, results))
    return resort


def _first_that_fits(kind: Resorts) -> Resort | None:
    """Return the first request of a kind that something fits, with the results and the words."""
    for changed, words in kind:
        other = possible_methods(changed)
        if any(result.fits for result in other.values()):
            return changed, other, words
    return None


def _leaner_optimizers(request: Request) -> Resorts:
    """Yield the request with a leaner optimizer, the faster first, and a description of it."""
    if request.optimizer is None and request.cluster.device == "cuda":
        for name in LEANER_OPTIMIZERS:
            words = Phrase(
                "; nothing fits with the recipe's own optimizer, so {name} (8-bit states)",
                name=name,
            )
            yield structs.replace(request, optimizer=name), words


def _shared_sequences(request: Request) -> Resorts:
    """Yield the request with sequences that two GPUs of a node share, then four, and so on, where
    the model and the other options let them."""
    from planner.search.shared_sequences import obstacle  # most plans come to no last resort

    per_node, shared = request.cluster.gpus_per_node, 2
    is_open = request.sequence_parallel_size is None and request.cluster.device == "cuda"
    while is_open and shared <= per_node:
        stopped = obstacle(
            request.model.spec,
            shared,
            sequence_length=request.sequence_length,
            gpus_per_node=per_node,
        )
        if stopped is None:
            words = Phrase("; nothing fits unless {ranks} GPUs share each sequence", ranks=shared)
            yield structs.replace(request, sequence_parallel_size=shared), words
        shared *= 2


def _tiles(request: Request) -> Resorts:
    """Yield the request with MLPs that run tile by tile."""
    for changed in tiled_mlp(request):
        yield changed, Phrase("; nothing fits unless MLPs run tile by tile")


def _waiting_activations(request: Request) -> Resorts:
    """Yield the request with its activations on the host if the size of that is known, then with
    MLPs in tiles as well."""
    if request.cluster.host_ram_bytes is not None:
        for changed in activation_offloading(request):
            yield changed, Phrase("; nothing fits unless activations wait on the host")
            for both in tiled_mlp(changed):
                words = Phrase(
                    "; nothing fits unless activations wait on the host and MLPs run tile by tile"
                )
                yield both, words


def _cut_layers(request: Request) -> Resorts:
    """Yield the request with layers that are cut over the devices of one node, if it leaves that
    open and the model has formulas."""
    pins = (request.strategy, request.zero_stage, request.offload)
    several = request.cluster.num_nodes == 1 and request.cluster.world_size > 1
    known = not isinstance(request.model.spec, TracedSpec)
    if several and known and pins == (None, None, None):
        words = Phrase("; nothing fits unless each layer is cut over the devices")
        yield structs.replace(request, strategy="tensor"), words


def _offloads(request: Request) -> Resorts:
    """Yield the request with each kind of offload if the size of the host's memory is known."""
    if request.cluster.host_ram_bytes is not None:
        for changed in offloads(request):
            yield changed, Phrase("; nothing fits without offload")
