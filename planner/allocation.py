"""Two training steps in full, replayed through the caching allocator: blocks and segments.

``max_memory_allocated`` counts whole blocks, and the allocator leaves a block whole when what
is left over is at most 1 MiB; ``max_memory_reserved`` counts segments. Both depend on the
order in which storages come and go, so every layer is run here and not two of them.
"""

from planner.allocator import Allocate, AllocatorPeak, Event, Free, replay
from planner.buffers import CUBLAS_WORKSPACE_BYTES, CUBLAS_WORKSPACES
from planner.model_pass import ModelPass
from planner.model_states import ADAM_MOMENTS_BYTES
from planner.numerics import Numerics
from planner.quantization import BLOCK_SIZE, FP32_BYTES, nf4_bytes
from planner.recipe import Batch, Workload
from planner.tensors import RENAMED
from planner.tensors import Event as Logged
from planner.units import ceil_div

STEPS = 2
"""The first makes the optimizer's states, the second is as all later ones."""


def allocator_peak(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: bool,
    expandable_segments: bool,
    states_on_device: bool,
) -> AllocatorPeak:
    """Weights, then two steps on one device without accumulation."""
    steps = [
        ModelPass(
            workload,
            batch,
            numerics,
            layers=workload.model.layers,
            checkpointing=checkpointing,
            sink="keep",
        )
        for _ in range(STEPS)
    ]
    weights = steps[0].weights
    events = _held("weight", [w.elements * w.width for w in weights.values()])
    events += _held("packed", quantized_sizes(workload))
    events += _held("cublas", [CUBLAS_WORKSPACE_BYTES] * CUBLAS_WORKSPACES)
    for number, step in enumerate(steps):
        events += _events(number, step.tape.log)
        if number == 0 and states_on_device:
            moments = ADAM_MOMENTS_BYTES // FP32_BYTES
            trained = [w.elements for w in weights.values() if w.trains]
            events += _held("state", [n * FP32_BYTES for n in trained for _ in range(moments)])
        kept = [id(storage) for storage in step.tape.kept_gradients]
        events += [Free((number, key)) for key in kept]
    return replay(events, expandable_segments=expandable_segments)


def _held(name: str, sizes: list[int]) -> list[Event]:
    return [Allocate((name, number), size) for number, size in enumerate(sizes)]


def _events(step: int, log: list[Logged]) -> list[Event]:
    """Storages by step and identity; an owner's change is none of the allocator's business."""
    return [
        Allocate((step, key), num_bytes) if num_bytes > 0 else Free((step, key))
        for num_bytes, _, key, _ in log
        if key != RENAMED
    ]


def quantized_sizes(workload: Workload) -> list[int]:
    """Packed codes and their constants, each its own tensor."""
    quantization = workload.recipe.quantization
    if quantization is None:
        return []
    sizes = []
    model = workload.model
    for matrix in (matrix for kind in model.layers for matrix in model.linears(kind)):
        packed = ceil_div(matrix.weight_params, 2)
        scales = ceil_div(matrix.weight_params, BLOCK_SIZE)
        if not quantization.double_quant:
            scales *= FP32_BYTES
        whole = nf4_bytes(num_weights=matrix.weight_params, double_quant=quantization.double_quant)
        sizes += [packed, scales, whole - packed - scales]
    return sizes
