"""Two training steps in full, replayed through the caching allocator: blocks and segments.

``max_memory_allocated`` counts whole blocks, and the allocator leaves a block whole when what is
left over is at most 1 MiB; ``max_memory_reserved`` counts segments. Both depend on the order in
which storages come and go, so that every layer is run here and not one of each kind.
"""

from collections.abc import Sequence
from typing import Any

from planner.allocator.replay import Allocate, AllocatorEvent, AllocatorPeak, Free, replay
from planner.forward.model_pass import ModelPass, passed_layers
from planner.hardware.cluster import Device
from planner.memory.footprint import gradient_sink
from planner.memory.optimizer_step import step_of
from planner.memory.workspaces import cublas_workspaces
from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.tape.tape import MATRIX_PRODUCTS, ProductKind, Tape
from planner.tape.tensors import RENAMED, StorageEvent
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.optimizers import shared_states, tensor_states
from planner.workload.quantization import quantized_tensors
from planner.workload.trained_tensors import TrainedTensor, trained_tensors
from planner.workload.workload import Batch, Workload

STEPS = 2
"""Number of steps: the first finds no cached blocks, the second is as all later ones."""


class _ProductTape(Tape):
    """A tape that also notes where cuBLAS multiplies, which is where its workspaces are made.

    read: aten/src/ATen/cuda/CublasHandlePool.cpp at 2.13, getCurrentCUDABlasHandle: a thread's
    handle gets its workspace when it is first asked for, which the product's output precedes. In
    backward what is alive by then stays below the workspace for good: where 16-bit logits have gone
    from there, those of the next step do not fit again, since the last hidden states are longer.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.products: list[int] = []
        """Positions in the log right after each product's output."""

    def multiplies(
        self,
        flops: int,
        num_bytes: int,
        width: int,
        *,
        kind: ProductKind = "product",
        again: bool = False,
    ) -> None:
        if (
            kind in MATRIX_PRODUCTS and width > 1
        ):  # bitsandbytes multiplies int8 by a handle of its own
            self.products.append(len(self.log) + 1)


def allocator_peak(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    numerics: Numerics,
    *,
    expandable_segments: bool,
) -> AllocatorPeak:
    """Return what :func:`training_events` take on one device."""
    events = training_events(workload, layout, batch, numerics)
    return replay(events, expandable_segments=expandable_segments)


def training_events(
    workload: Workload, layout: Layout, batch: Batch, numerics: Numerics
) -> list[AllocatorEvent]:
    """Return the allocations of two steps as a rehearsal makes them: the optimizer's states are
    there before the first, and with accumulation the gradients of earlier micro-batches."""
    run = ModelPass(
        workload,
        batch,
        numerics,
        layers=passed_layers(workload.model, layout.checkpointing),
        sink=gradient_sink(layout),
        tape=_ProductTape,
    )
    update = step_of(workload, width=numerics.home, device=batch.device)
    events = _held("weight", [w.elements * w.width for w in run.weights.values()])
    events += _held("packed", quantized_sizes(workload))
    events += _before_the_first(workload, layout, numerics, batch.device, update.log)
    workspaces = [cublas_workspaces(batch.compute_capability), []]
    for number in range(STEPS):
        events += _pass_events(number, run, workspaces[min(number, 1)])
        events += _events(STEPS + number, update.log)
        kept = [id(storage) for storage in run.tape.kept_gradients]
        events += [Free((number, key)) for key in kept]
    return events


def _before_the_first(
    workload: Workload,
    layout: Layout,
    numerics: Numerics,
    device: Device,
    update: list[StorageEvent],
) -> list[AllocatorEvent]:
    """Return gradients of zeros, from which an update makes the states."""
    tensors = trained_tensors(workload)
    optimizer = optimizers()[workload.settings.optimizer.name]
    states = state_sizes(optimizer, tensors, width=numerics.home, device=device)
    events = _held("gradient", [tensor.elements * numerics.gradient for tensor in tensors])
    events += _held("state", states)
    events += _events(-1, update)
    if gradient_sink(layout) == "keep":
        events += [Free(("gradient", number)) for number in range(len(tensors))]
    return events


def _pass_events(number: int, run: ModelPass, workspaces: Sequence[int]) -> list[AllocatorEvent]:
    """Return one pass, with a workspace at the first product of each of its threads, if there are
    any to make: forward's, and autograd's."""
    log = run.tape.log
    assert isinstance(run.tape, _ProductTape)
    turn, products = run.casts_gone[-1], run.tape.products
    places = [products[0], next(place for place in products if place > turn)]
    events: list[AllocatorEvent] = []
    done = 0
    for key, (place, num_bytes) in enumerate(zip(places, workspaces, strict=False)):
        events += _events(number, log[done:place])
        events.append(Allocate(("workspace", key), num_bytes))
        done = place
    return events + _events(number, log[done:])


def state_sizes(
    optimizer: OptimizerSpec, tensors: Sequence[TrainedTensor], *, width: int, device: Device
) -> list[int]:
    """Return the bytes of each optimizer state that the allocator holds."""
    own = [
        state
        for tensor in tensors
        for state in tensor_states(optimizer, tensor, width=width, device=device)
    ]
    states = [*shared_states(optimizer, tensors), *own]
    return [state.num_bytes for state in states if not state.paged]


def _held(name: str, sizes: list[int]) -> list[AllocatorEvent]:
    return [Allocate((name, number), size) for number, size in enumerate(sizes)]


def _events(step: int, log: list[StorageEvent]) -> list[AllocatorEvent]:
    """Return the storages by step and identity; a change of owner does not concern the
    allocator."""
    return [
        Allocate((step, key), num_bytes) if num_bytes > 0 else Free((step, key))
        for num_bytes, _, key, _ in log
        if key != RENAMED
    ]


def quantized_sizes(workload: Workload) -> list[int]:
    """Return the bytes of packed codes and of their constants, each its own tensor."""
    quantization = workload.settings.quantization
    if quantization is None:
        return []
    return [
        size
        for kind in workload.model.layers
        for matrix in workload.model.linears(kind)
        for size in quantized_tensors(matrix, quantization)
    ]
