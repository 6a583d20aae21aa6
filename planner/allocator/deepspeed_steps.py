"""Two steps of one rank under DeepSpeed as the allocator sees them.

read: deepspeed/runtime/zero/stage_1_and_2.py and stage3.py at 0.19.8; in which order buffers come,
and on which stream, is as simulated cards have it (benchmarks/simulated).
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from planner.allocator.few_layers import FewLayers, Inserted, dropped, micro_batch, workspaces_of
from planner.allocator.held_sizes import STEPS
from planner.allocator.large_requests import (
    EMPTIED,
    Request,
    Sizes,
    allocated,
    freed,
    split_by_pool,
)
from planner.allocator.pools import LARGE_SEGMENT_BYTES
from planner.base.units import block, ceil_div, round_up
from planner.hardware.cluster import Device
from planner.memory.buffers import Buffer, Buffers
from planner.memory.footprint import Moments
from planner.memory.zero_1_2 import NORM_BYTES, flat_states
from planner.plan.schema import ZeroSection
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.trained_tensors import trained_tensors
from planner.workload.workload import Workload
from planner.workload.zero_sizes import ZERO3_SUB_GROUP_SIZE

TRAINED: tuple[Buffer, ...] = ("trained_weights", "adapters")
MASTER: tuple[Buffer, ...] = ("master_copies", "offload_buffer", "persistent")
SETUP: tuple[Buffer, ...] = (
    "setup_copy",
    "setup_gradients",
    "loaded_parameter",
    "hooked_parameter",
)
"""Buffers by when they are there: from the load on, and in the setup alone."""


class FlatBytes(Struct, frozen=True):
    """Bytes of one flat tensor of DeepSpeed's."""

    gradient: int
    """Bytes as gradients come."""
    home: int
    """Bytes in the master copy's dtype."""
    norm: int
    """Bytes of the rank's part of the largest gradient, as its norm is taken."""


def flat_bytes(workload: Workload, layout: Layout, numerics: Numerics) -> FlatBytes:
    """Return the sizes of a rank's part of what decays, which the optimizer has as a group, or of a
    sub-group of it under ZeRO-3."""
    tensors = trained_tensors(workload)
    part = sum(tensor.elements for tensor in tensors if tensor.decays) // layout.world_size
    largest = max(tensor.elements for tensor in tensors)
    if layout.zero_stage == 3:
        part = min(part, ZERO3_SUB_GROUP_SIZE)
        largest = ceil_div(largest, layout.world_size)
    return FlatBytes(
        norm=block(min(part, largest) * NORM_BYTES),
        gradient=block(part * numerics.gradient),
        home=block(part * numerics.home),
    )


def zero_requests(
    run: FewLayers,
    workload: Workload,
    layout: Layout,
    moments: Moments,
    *,
    frozen: Iterable[Request],
    flat: FlatBytes,
    workspaces: Sizes,
) -> Iterator[Request]:
    """Yield two steps of one rank under DeepSpeed on its main stream, whose buffers are those of
    ``moments`` and whose ``frozen`` weights are loaded first.

    Under ZeRO-1 a rank's own gradients are copied to the stream that reduces, and all others end
    before the step. ZeRO-3 learns the order of the modules in the first forward pass, and gathers
    the head there.
    """
    forward, step = moments["forward"].buffers, moments["optimizer_step"].buffers
    yield from _zero_load(
        run, workload, layout, forward, moments["load"].buffers, flat.home, frozen
    )
    buckets = moments["backward"].buffers.get("reduce_buckets", 0)
    gathered = moments["backward"].buffers.get("gathered", 0)
    slice_bytes = gathered // layout.world_size if layout.offload == "all" else 0
    head: Sequence[Request] = [("gathered", gathered), ("slice", slice_bytes), ("slice", 0)]
    states = _cut(forward.get("optimizer_states", 0), flat.home)
    for number in range(STEPS):
        for second in (False, True)[: min(2, layout.gradient_accumulation_steps)]:
            name = number, second
            more: Inserted = [
                (run.trace.loss, [] if any(name) else head),
                (run.trace.casts[-1], [("gathered", 0)]),
                (run.trace.first_gradient, [((name, "buckets"), buckets)]),
                *workspaces_of(run.trace, [] if any(name) else workspaces),
            ]
            yield from micro_batch(name, run, more, adds=second and bool(run.trace.kept))
            yield (name, "buckets"), 0
        yield from dropped((number, False), run)
        yield from _zero_update(step.get("update", 0), flat, [] if number else states)


def _zero_load(
    run: FewLayers,
    workload: Workload,
    layout: Layout,
    forward: Buffers,
    load: Buffers,
    piece_bytes: int,
    frozen: Iterable[Request],
) -> Iterator[Request]:
    """Yield what DeepSpeed holds before the first step, and what it sets that up with.

    ZeRO-1 and ZeRO-2 copy what trains into flat buffers, which are longer than the large tensors
    that they take the place of; each group of the optimizer's, of what decays and of what does
    not, begins with an emptied cache, so that the second one's gives back what the first has left.
    A rank's part is copied before it is cast to the master copy's dtype.
    ZeRO-3 makes its master copies from ones that go before there are gradients.
    """
    trained, tensors = sum(forward.get(key, 0) for key in TRAINED), trained_tensors(workload)
    elements = sum(tensor.elements for tensor in tensors)
    yield from frozen
    if layout.zero_stage < 3:
        yield "loaded", sum(split_by_pool(run.weight_sizes(trains=True))[0])
        yield EMPTIED
    decaying = sum(tensor.elements for tensor in tensors if tensor.decays)
    first = block(decaying * trained // max(1, elements))
    yield from allocated("flat", _cut(trained, first))
    yield "loaded", 0
    if layout.zero_stage < 3 and first // layout.world_size != piece_bytes:
        yield "part", first // layout.world_size
    setup = _cut(sum(load.get(key, 0) for key in SETUP), piece_bytes)
    master = _cut(sum(forward.get(key, 0) for key in MASTER), piece_bytes)
    made = ("master", master), ("setup", setup)
    groups = len({tensor.decays for tensor in tensors})
    for name, sizes in made if layout.zero_stage < 3 else reversed(made):
        yield from allocated(name, sizes)
        yield "part", 0
        if layout.zero_stage < 3 and name == "master" and groups > 1:
            yield EMPTIED
    yield from freed("setup", len(setup))
    if layout.zero_stage == 3:
        yield "gradients", forward.get("gradients", 0)


def _zero_update(num_bytes: int, flat: FlatBytes, states: Sizes) -> Iterator[Request]:
    """Yield a step: norms, gradients flat, the same in the master copy's dtype; the first one makes
    the optimizer's states. Where it is on the host, nothing."""
    if num_bytes < flat.gradient:
        return
    yield "norm", flat.norm
    yield "norm", 0
    yield "flat gradient", flat.gradient
    yield "gradient", flat.home
    yield "flat gradient", 0
    yield from allocated("states", states)
    yield "gradient", 0


def side_bytes(layout: Layout, *, gradients: int, copy: int, gathered: int) -> int:
    """Return what the streams reserve on which DeepSpeed reduces gradients, by a copy of so many
    bytes, and gathers weights: blocks of one stream never serve another.

    A rank of ZeRO-2 has its gradients there, a second time in the later micro-batches.
    """
    again = layout.zero_stage == 2 and layout.gradient_accumulation_steps > 1
    large, _ = split_by_pool((gradients, gradients * again, copy))
    gathering, _ = split_by_pool([gathered])
    return sum(round_up(sum(sizes), LARGE_SEGMENT_BYTES) for sizes in (large, gathering))


def reduced_bytes(
    workload: Workload, layout: Layout, zero: ZeroSection, numerics: Numerics, device: Device
) -> int:
    """Return the bytes of gradients on the rank whose part touches most; none where they go to the
    host, or where ZeRO-3 has them in what its setup made."""
    if layout.zero_stage == 3 or layout.offload != "none":
        return 0
    ranks = layout.world_size
    return flat_states(
        workload, ranks, zero, numerics, offloaded=False, device=device
    ).gradients_bytes


def _cut(num_bytes: int, piece_bytes: int) -> list[int]:
    """Return pieces of so many bytes, the last one shorter."""
    whole, rest = divmod(num_bytes, max(1, piece_bytes))
    return [piece_bytes] * whole + [rest] * (rest > 0)
