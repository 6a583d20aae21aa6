"""The smallest machine of one kind that fits a method: how many of a card, or which card."""

from functools import cache

from msgspec import Struct, structs

from planner.base.bounded_cache import bounded_cache
from planner.base.units import ceil_div
from planner.decision.method_search import search_method
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.hardware.cards import (
    context_bytes,
    load_gpu,
    named_cluster,
    preset_texts,
    stated_sizes,
    visible_bytes,
)
from planner.hardware.cluster import MOST_PER_HOST, Accelerator
from planner.memory.model_states import least_states_bytes
from planner.plan.vocabulary import Method
from planner.search.candidate import Candidate
from planner.search.series_search import SeriesSearch
from planner.workload.layout import Layout

CARD_COUNTS = (1, 2, 4, 8, 16, 32, 64)
CLOSE = 0.97
"""Machines with less than this share of what is needed are not tried: padding and workspaces, in
which they differ, come to less."""

LAPTOP = " Laptop GPU\n"
"""End of the line with NVML's name of such a GPU."""


def fewest_cards(request: Request, method: Method, *, more_than: int = 0) -> int | None:
    """Return the smallest number of devices like those here that fits a method; None where no
    number tried does. A node has as many as most hosts hold, and one of those that have its host's
    memory."""
    least = CLOSE * _states_bytes(request, method) / request.budget_bytes
    card = request.cluster.accelerator
    for count in CARD_COUNTS[:1] if card.is_slice or card.unified_memory else CARD_COUNTS:
        if count > more_than and count >= least and _fits(request, method, count):
            return count
    return None


@bounded_cache
def _fits(request: Request, method: Method, count: int) -> bool:
    hosts = hosts_of(count)
    few = structs.replace(request.cluster, gpus_per_node=count // hosts, num_nodes=hosts)
    return search_method(request.on(few), method).fits


def hosts_of(count: int) -> int:
    """Return how many hosts hold one of the ``CARD_COUNTS``."""
    return ceil_div(count, MOST_PER_HOST)


def _states_bytes(request: Request, method: Method) -> int:
    """Return the least bytes of states over all ranks: what trains, its gradient and an fp32 copy
    take as much in 16 bit, under DeepSpeed, as what trains and its gradient do in fp32."""
    alone = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        activation_checkpointing=True,
    )
    return least_states_bytes(workload(request, method), alone, request.cluster.device)


def smallest_card(request: Request, method: Method) -> str | None:
    """Return the smallest card by name, as many of it as there are devices here, that holds the
    layout with the least memory; None where no preset is large enough."""
    unlimited = structs.replace(request.on(request.cluster), memory_limit_bytes=None)
    leanest = search_method(unlimited, method).leanest
    if leanest is None:
        return None
    tensors_bytes = leanest.memory.high_bytes - leanest.memory.context_bytes
    needed: dict[tuple[object, ...], int | None] = {}
    for card in cards_by_capacity():
        if card.capacity_bytes < CLOSE * tensors_bytes + card.context_bytes:
            continue
        cluster = named_cluster(load_gpu(card.name), request.cluster.gpus_per_node)
        there = unlimited.on(structs.replace(cluster, num_nodes=request.cluster.num_nodes))
        kind = _kind(cluster.accelerator)
        if kind not in needed:
            needed[kind] = _bytes_like(leanest, there, method)
        need = needed[kind]
        if search_method(there, method).fits if need is None else need <= there.budget_bytes:
            return card.name
    return None


def _kind(card: Accelerator) -> tuple[object, ...]:
    """Return what decides how many bytes a layout needs of a card, and whether it may run there."""
    return card.compute_capability, card.supports_bf16, card.context_bytes, card.unified_memory


def _bytes_like(known: Candidate, request: Request, method: Method) -> int | None:
    """Return the bytes that a method needs in the layout that is leanest elsewhere; None where the
    request's card does not allow that one."""

    def alike(search: SeriesSearch) -> bool:
        layouts, layout = search.layouts, known.layout
        return search.variant.departures == known.departures and (
            layouts.sharding,
            layouts.offload,
            layouts.accumulates,
        ) == (layout.sharding, layout.offload, layout.gradient_accumulation_steps > 1)

    found = search_method(request, method).leanest_of(alike)
    return None if found is None else found.memory.high_bytes


class SizedCard(Struct, frozen=True):
    """A preset, and what decides at first whether it is large enough."""

    capacity_bytes: int
    """Bytes that PyTorch sees."""
    name: str
    context_bytes: int


@cache
def cards_by_capacity() -> tuple[SizedCard, ...]:
    """Return every preset, the smallest first, without the GPUs of laptops, which nobody adds to a
    machine."""
    texts = preset_texts()
    sized = (
        SizedCard(visible_bytes(sizes), name, context_bytes(sizes, sizes.nominal_gib))
        for name, sizes in stated_sizes().items()
        if LAPTOP not in texts[name]
    )
    return tuple(sorted(sized, key=lambda card: (card.capacity_bytes, card.name)))
