"""Terms of DeepSpeed's buffers, where a rank has a slice of every parameter (ZeRO-3)."""

from collections.abc import Iterator

from planner.base.phrases import Phrase
from planner.base.units import ceil_div
from planner.memory.buffers import Ahead, Arrival, Border, Buffer, Late
from planner.memory.zero_1_2 import NORM_BYTES
from planner.memory.zero_3 import filled_at_once, largest_module
from planner.memory.zero_3_gathering import gathered_parameters
from planner.memory.zero_reductions import scatter_copies
from planner.plan.vocabulary import Phase
from planner.report.explain.device_terms import COMMON, Terms
from planner.report.explain.explained import Explained
from planner.report.explain.state_terms import (
    LORA,
    SHAPE,
    blocks,
    filled_blocks,
    frozen_terms,
)
from planner.report.explain.terms import Count, Expression, Term, bytes_of, largest, total
from planner.report.explain.zero_1_2_terms import flattened, ranks_of
from planner.workload.parameters import Sized, parameters

STAGE_3 = "DeepSpeed 0.19.8, stage3.py (planner/memory/zero_3.py)"
COORDINATOR = (
    "DeepSpeed 0.19.8, partitioned_param_coordinator.py (planner/memory/zero_3_gathering.py)"
)
SCATTERED = "DeepSpeed 0.19.8, coalesced_collectives.py (planner/memory/zero_reductions.py)"
OFFLOADED = "DeepSpeed 0.19.8, stage3.py, _constant_buffered_norm2 (planner/memory/zero_3.py)"


def _params(plan: Explained, *, trains: bool) -> list[Sized]:
    return [each for each in parameters(plan.workload) if each.trains == trains]


def _slices(plan: Explained) -> Expression:
    """Return the rank's slices of what trains."""
    ranks = plan.layout.world_size
    return total(plan.trained, _equal(_params(plan, trains=True), ranks)) / ranks_of(plan)


def _equal(params: list[Sized], ranks: int) -> Count:
    """Return what makes the ranks' slices of each parameter equal."""
    lost = sum(ceil_div(each.elements, ranks) * ranks - each.elements for each in params)
    return Count(lost, Phrase("to make slices equal"))


def _trained_weights(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks(_slices(plan), plan.kinds.trainable)
    yield Term(name=Phrase("trained weights"), bytes=amount, source=SHAPE)


def _adapters(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks(_slices(plan), plan.kinds.trainable)
    yield Term(name=Phrase("adapters"), bytes=amount, source=LORA)


def _frozen_weights(plan: Explained, _phase: Phase) -> Iterator[Term]:
    """Yield the slices of frozen parameters; what is quantized is not sharded."""
    if plan.workload.settings.quantization is not None:
        yield from frozen_terms(plan.workload, plan.kinds)
        return
    ranks, width, frozen = plan.layout.world_size, plan.kinds.frozen, _params(plan, trains=False)
    elements = Count(sum(each.elements for each in frozen), Phrase("frozen parameters"))
    slices = total(elements, _equal(frozen, ranks)) / ranks_of(plan) * bytes_of(width)
    sizes = (ceil_div(each.elements, ranks) * width for each in frozen)
    yield Term(name=Phrase("frozen weights"), bytes=filled_blocks(slices, sizes), source=SHAPE)


def _master_copies(plan: Explained, _phase: Phase) -> Iterator[Term]:
    width = plan.kinds.master
    sizes = (size * width for size in plan.sliced.sub_groups)
    amount = filled_blocks(_slices(plan) * bytes_of(width), sizes)
    name = Phrase("the rank's slices in {precision}", precision=plan.updated_in)
    yield Term(name=name, bytes=amount, source=STAGE_3)


def _setup_copy(plan: Explained, _phase: Phase) -> Iterator[Term]:
    elements = Count(max(plan.sliced.sub_groups), Phrase("elements"))
    amount = blocks(elements, plan.kinds.home)
    name = Phrase("the largest sub-group once more in {precision}", precision=plan.updated_in)
    yield Term(name=name, bytes=amount, source=STAGE_3)


def _gradients(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks(_slices(plan), plan.kinds.gradient)
    yield Term(name=Phrase("gradients of the rank's slices"), bytes=amount, source=STAGE_3)


def _reduce_bucket(plan: Explained, _phase: Phase) -> Iterator[Term]:
    amount = blocks(Count(plan.zero.reduce_bucket_size, Phrase("gradients")), plan.kinds.gradient)
    yield Term(name=Phrase("the bucket to be reduced"), bytes=amount, source=STAGE_3)


def _whole(params: list[Sized], plan: Explained) -> Expression:
    """Return parameters as they are gathered: with what makes their slices equal."""
    ranks, width = plan.layout.world_size, plan.kinds.compute
    elements = Count(sum(each.elements for each in params), Phrase("elements"))
    asked = total(elements, _equal(params, ranks)) * bytes_of(width)
    sizes = (ceil_div(each.elements, ranks) * ranks * width for each in params)
    return filled_blocks(asked, sizes)


def _small_ones(plan: Explained) -> Expression:
    """Return the parameters that are small enough to stay whole."""
    threshold = plan.zero.param_persistence_threshold
    return _whole([x for x in parameters(plan.workload) if x.elements <= threshold], plan)


def _largest_trained(plan: Explained) -> Expression:
    """Return the largest parameter that trains."""
    params = _params(plan, trains=True)
    return _whole([max(params, key=lambda each: each.elements)], plan)


def _persistent(plan: Explained, _phase: Phase) -> Iterator[Term]:
    most = plan.zero.param_persistence_threshold
    name = Phrase("parameters of at most {most:,} elements, whole", most=most)
    yield Term(name=name, bytes=_small_ones(plan), source=STAGE_3)


def _gathered(plan: Explained, phase: Phase) -> Iterator[Term]:
    """Yield what DeepSpeed's coordinator has gathered to run and fetched ahead."""
    whole = gathered_parameters(
        plan.workload,
        plan.layout.world_size,
        plan.zero,
        checkpointing=plan.layout.checkpointing,
        width=plan.kinds.compute,
        from_host=plan.layout.offload == "all",
    )
    place = plan.moments[phase].place
    if isinstance(place, Arrival | Late | int):
        number = place if isinstance(place, int) else place.stretch
        num_bytes = [whole.head_backward, *whole.in_backward, 0][number + 1]
    elif isinstance(place, Border):
        num_bytes = whole.before_head if place.layer else whole.embedding
    elif isinstance(place, Ahead) or place == "layers_forward":
        in_forward = whole.in_forward(from_host=plan.layout.offload == "all")
        num_bytes = in_forward[place.layer] if isinstance(place, Ahead) else max(in_forward)
    elif place == "forward":
        num_bytes = whole.head
    else:
        num_bytes = whole.head_backward
    name = Phrase("weights gathered to run and fetched ahead, replayed")
    yield Term(name=name, bytes=bytes_of(num_bytes), source=COORDINATOR)


def _reduced_copy(plan: Explained, phase: Phase) -> Iterator[Term]:
    """Yield the copy that gradients are sent from, or what an offloaded one passes through."""
    place, offload = plan.moments[phase].place, plan.layout.offload
    if not isinstance(place, Arrival):
        return
    copies = scatter_copies(
        plan.workload, plan.layout.world_size, plan.zero, plan.kinds, offload=offload
    )
    copy = Count(copies[place.stretch + 1], Phrase("bytes of gradients that are sent, replayed"))
    source = SCATTERED if offload == "none" else f"{SCATTERED}; {OFFLOADED}"
    yield Term(name=Phrase("gradients while they are reduced"), bytes=copy, source=source)


def _loaded_parameter(plan: Explained, _phase: Phase) -> Iterator[Term]:
    """Yield what is whole while the most is: a module that is filled with its slices where those
    come from host memory, or one that is made while there are not all slices yet."""
    sliced, from_host = plan.sliced, plan.layout.offload == "all"
    filled = _whole(filled_at_once(plan.workload), plan)
    made = sliced.largest_module_bytes if from_host else sliced.made_bytes
    if made == sliced.largest_loaded_bytes:
        name = Phrase("the largest module while it is made, beside the slices before it")
        yield Term(name=name, bytes=bytes_of(made), source=STAGE_3)
        return
    name = Phrase("the largest parameters while they are loaded")
    yield Term(name=name, bytes=filled, source=STAGE_3)
    if from_host:
        name = Phrase("their slices, on their way to host memory")
        yield Term(name=name, bytes=bytes_of(sliced.filled_slice_bytes), source=STAGE_3)


def _hooked_parameter(plan: Explained, _phase: Phase) -> Iterator[Term]:
    name = Phrase("the largest parameter that trains, whole for its hook")
    yield Term(name=name, bytes=_largest_trained(plan), source=STAGE_3)
    if plan.layout.offload == "all":
        name = Phrase("its slice, which comes from host memory")
        size = Count(plan.sliced.largest_slice, Phrase("elements"))
        yield Term(name=name, bytes=blocks(size, plan.kinds.compute), source=STAGE_3)


def _saved_parameter(plan: Explained, _phase: Phase) -> Iterator[Term]:
    module = _whole(largest_module(plan.workload), plan)
    amount = largest(_small_ones(plan), module)
    yield Term(name=Phrase("parameters gathered to be written"), bytes=amount, source=STAGE_3)


def _update(plan: Explained, _phase: Phase) -> Iterator[Term]:
    """Yield the largest of a norm, a sub-group's gradients, and the small parameters once the
    last sub-group is done."""
    choices = [_small_ones(plan)]
    if plan.layout.offload == "none":
        sizes = plan.sliced.sub_groups
        groups = (flattened(size, plan, Phrase("gradients of one sub-group")) for size in sizes)
        one = Count(plan.sliced.largest_slice, Phrase("elements of one gradient for its norm"))
        step = max(groups, key=lambda group: group.value)
        choices = [blocks(one, NORM_BYTES), step, *choices]
    yield Term(name=Phrase("while the optimizer steps"), bytes=largest(*choices), source=STAGE_3)


SLICED_TERMS: dict[Buffer, Terms] = {
    **COMMON,
    "frozen_weights": _frozen_weights,
    "trained_weights": _trained_weights,
    "adapters": _adapters,
    "master_copies": _master_copies,
    "setup_copy": _setup_copy,
    "gradients": _gradients,
    "reduce_buckets": _reduce_bucket,
    "reduced_copy": _reduced_copy,
    "persistent": _persistent,
    "gathered": _gathered,
    "loaded_parameter": _loaded_parameter,
    "hooked_parameter": _hooked_parameter,
    "saved_parameter": _saved_parameter,
    "update": _update,
}
"""The buffers of ZeRO-3."""
