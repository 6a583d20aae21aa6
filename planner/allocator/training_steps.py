"""Two training steps in full, replayed through the caching allocator: blocks and segments.

``max_memory_allocated`` counts whole blocks, and the allocator leaves a block whole when what is
left over is at most 1 MiB; ``max_memory_reserved`` counts segments. Both depend on the order in
which storages come and go, so that every layer is run here and not one of each kind.
"""

from collections.abc import Sequence

from planner.allocator.replay import Allocate, AllocatorEvent, AllocatorPeak, Free, replay
from planner.forward.model_pass import ModelPass, passed_layers
from planner.hardware.cluster import Device
from planner.memory.optimizer_step import step_of
from planner.memory.workspaces import cublas_workspaces
from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.tape.tensors import RENAMED, StorageEvent
from planner.workload.dtypes import Numerics
from planner.workload.optimizers import shared_states, tensor_states
from planner.workload.quantization import quantized_tensors
from planner.workload.trained_tensors import TrainedTensor, trained_tensors
from planner.workload.workload import Batch, Workload

STEPS = 2
"""Number of steps: the first makes the optimizer's states, the second is as all later ones; their
tensors are the same."""


def allocator_peak(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: int,
    expandable_segments: bool,
) -> AllocatorPeak:
    """Return what weights and two steps take on one device without accumulation."""
    step = ModelPass(
        workload,
        batch,
        numerics,
        layers=passed_layers(workload.model, checkpointing),
        sink="keep",
    )
    update = step_of(workload, width=numerics.home, device=batch.device)
    events = _held("weight", [w.elements * w.width for w in step.weights.values()])
    events += _held("packed", quantized_sizes(workload))
    events += _held("cublas", cublas_workspaces(batch.compute_capability))
    for number in range(STEPS):
        events += _events(number, step.tape.log)
        if number == 0:
            states = state_sizes(
                optimizers()[workload.settings.optimizer.name],
                trained_tensors(workload),
                width=numerics.home,
                device=batch.device,
            )
            events += _held("state", states)
        events += _events(STEPS + number, update.log)
        kept = [id(storage) for storage in step.tape.kept_gradients]
        events += [Free((number, key)) for key in kept]
    return replay(events, expandable_segments=expandable_segments)


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
