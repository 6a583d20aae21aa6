"""What DeepSpeed holds at the largest moment of each phase, term by term, with its numbers.

The terms of a row add up to the cell of the memory report that they stand for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.memory.workspaces import cublas_bytes
from planner.memory.zero_1_2 import FlatStates, flat_states
from planner.memory.zero_3 import SlicedStates, sliced_states
from planner.plan.vocabulary import PHASES, Part, Phase
from planner.search.candidate import Candidate
from planner.workload.dtypes import numerics_of
from planner.workload.zero_buckets import zero_section

Term = tuple[str, int]
"""Words with the numbers put in, and bytes."""
STAGE_1_AND_2 = "DeepSpeed 0.19.8, stage_1_and_2.py (planner/memory/zero_1_2.py, zero_reduce.py)"
STAGE_3 = "DeepSpeed 0.19.8, stage3.py (planner/memory/zero_3.py)"
COORDINATOR = (
    "DeepSpeed 0.19.8, stage3.py, partitioned_param_coordinator.py "
    "(planner/memory/zero_3.py, zero_3_gathering.py)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One part at the largest moment of one phase."""

    phase: Phase
    part: Part
    terms: tuple[Term, ...]
    source: str

    @property
    def num_bytes(self) -> int:
        return sum(num_bytes for _, num_bytes in self.terms)


def deepspeed_moments(candidate: Candidate) -> list[Moment]:
    """Setup, buckets, gathered weights and the step; nothing without DeepSpeed."""
    layout, workload = candidate.layout, candidate.workload
    zero = zero_section(workload, layout)
    if zero is None:
        return []
    kinds, device = numerics_of(workload, layout), candidate.cluster.device
    ranks, offload = layout.world_size, layout.offload
    if layout.zero_stage == 3:
        sliced = sliced_states(workload, ranks, zero, kinds, offload=offload, device=device)
        found = list(_stage_3(candidate, sliced))
    else:
        offloaded = offload != "none"
        flat = flat_states(workload, ranks, zero, kinds, offloaded=offloaded, device=device)
        found = list(_stage_1_and_2(candidate, flat))
    return [moment for moment in found if moment.num_bytes]


def _cell(candidate: Candidate, phase: Phase, part: Part) -> int:
    return candidate.footprint.phases[phase].get(part, 0)


def _stage_1_and_2(candidate: Candidate, states: FlatStates) -> Iterator[Moment]:
    def moment(phase: Phase, part: Part, *terms: Term) -> Moment:
        return Moment(
            phase=phase, part=part, terms=_rest(terms, candidate, phase, part), source=STAGE_1_AND_2
        )

    if _cell(candidate, "load", "optimizer_states"):
        parts = " + ".join(f"{each.part:,}" for each in states.partitions)
        copy = f"the rank's part of what trains in fp32, {parts} x 4 bytes"
        yield moment("load", "optimizer_states", (copy, 0))
        yield moment("load", "gradients", (f"zeros to set the optimizer up, {parts} x 4 bytes", 0))
    held = (_offload_buffer(states), states.held_buffer_bytes)
    size, width = states.zero.reduce_bucket_size, states.kinds.gradient
    buckets = (f"two buckets of {size:,} gradients x {width} bytes", states.buckets_bytes)
    copied = "pieces of several ranks' parts, copied to be reduced together"
    for phase in PHASES:
        found = _cell(candidate, phase, "communication")
        with_buckets = found >= held[1] + buckets[1]
        yield moment(
            phase, "communication", held, *((buckets,) if with_buckets else ()), (copied, 0)
        )
    whole = "gradients of earlier micro-batches, of parameters that the rank's part touches, and "
    whole += "of those too large for a bucket until they are reduced"
    for phase in ("forward", "backward"):
        yield moment(phase, "gradients", (whole, 0))
    largest = max(states.partitions, key=lambda each: each.part)
    norm = f"a norm in fp64, {largest.largest_piece:,} x 8 bytes"
    flat = f"the part's gradients flat and in fp32, {largest.part:,} x 4 bytes and the update's own"
    yield moment(
        "optimizer_step",
        "workspace",
        *_cublas(candidate),
        (f"the larger of {norm}, and of {flat}", 0),
    )


def _offload_buffer(states: FlatStates) -> str:
    largest = max(each.largest for each in states.partitions)
    return f"a buffer for the largest gradient, {largest:,} x {states.kinds.gradient} bytes"


def _cublas(candidate: Candidate) -> tuple[Term, ...]:
    cluster = candidate.cluster
    held = cublas_bytes(cluster.device, cluster.accelerator.compute_capability)
    return (("cuBLAS workspaces", held),) if held else ()


def _rest(
    terms: tuple[Term, ...], candidate: Candidate, phase: Phase, part: Part
) -> tuple[Term, ...]:
    """The last term is what the others leave of the cell."""
    *known, (words, _) = terms
    left = _cell(candidate, phase, part) - sum(num_bytes for _, num_bytes in known)
    return tuple(term for term in (*known, (words, left)) if term[1])


def _stage_3(candidate: Candidate, states: SlicedStates) -> Iterator[Moment]:
    def moment(phase: Phase, part: Part, *terms: Term, source: str = STAGE_3) -> Moment:
        return Moment(
            phase=phase, part=part, terms=_rest(terms, candidate, phase, part), source=source
        )

    zero, width = states.zero, states.kinds.gradient
    bucket = (
        f"the bucket of {zero.reduce_bucket_size:,} gradients x {width} bytes",
        states.bucket_bytes,
    )
    persistent = (
        f"parameters of at most {zero.param_persistence_threshold:,} elements, whole",
        states.persistent_bytes,
    )
    yield from _stage_3_load(candidate, states, bucket)
    gathered = (
        f"weights gathered to run and fetched ahead ({zero.prefetch_bucket_size:,} elements under "
        f"way, {zero.max_live_parameters:,} live), with the buffer that they arrive in"
    )
    yield moment("forward", "communication", bucket, persistent, (gathered, 0), source=COORDINATOR)
    reduced = f"{gathered}; a copy of gradients that are reduced"
    yield moment("backward", "communication", bucket, persistent, (reduced, 0), source=COORDINATOR)
    yield moment("optimizer_step", "communication", bucket)
    few = states.largest_gathered_bytes >= states.persistent_bytes
    to_save = f"{_largest(states)}, gathered to be written" if few else persistent[0]
    yield moment("save", "communication", bucket, (to_save, 0))
    largest_group = max(states.sub_groups)
    step = (
        f"the largest of a norm in fp64, {states.largest_slice:,} x 8 bytes; of a sub-group's "
        f"gradients flat and in fp32, {largest_group:,} x 4 bytes and the update's own; of "
        f"{persistent[0]} again"
    )
    yield moment("optimizer_step", "workspace", *_cublas(candidate), (step, 0))


def _largest(states: SlicedStates) -> str:
    width = states.kinds.compute
    return f"the largest parameter, {states.largest_gathered_bytes // width:,} x {width} bytes"


def _stage_3_load(candidate: Candidate, states: SlicedStates, bucket: Term) -> Iterator[Moment]:
    def moment(part: Part, *terms: Term) -> Moment:
        return Moment(
            phase="load", part=part, terms=_rest(terms, candidate, "load", part), source=STAGE_3
        )

    slices = " + ".join(f"{size:,}" for size in states.sub_groups)
    copies = (f"the rank's slices of what trains in fp32, {slices} x 4 bytes", states.copies_bytes)
    if _cell(candidate, "load", "optimizer_states"):
        once_more = f"the largest sub-group once more, {max(states.sub_groups):,} x 4 bytes"
        yield moment("optimizer_states", copies, (once_more, 0))
    whole = f"{_largest(states)} while it is loaded"
    if _cell(candidate, "load", "gradients"):
        yield moment("gradients", ("the buffer of the rank's slices", 0))
        trained = "the largest parameter that trains, whole for its hook"
        yield moment("communication", bucket, (trained, 0))
    else:
        yield moment("communication", (whole, 0))
