"""Sizes of what the allocator holds from step to step, each a request of its own."""

from collections.abc import Sequence

from planner.hardware.cluster import Device
from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.workload.dtypes import Numerics
from planner.workload.optimizers import shared_states, tensor_states
from planner.workload.quantization import quantized_tensors
from planner.workload.trained_tensors import TrainedTensor
from planner.workload.workload import Workload

STEPS = 2
"""Number of steps: the first finds no cached blocks and makes the optimizer's states, the second is
as all later ones."""


def states_of(
    workload: Workload, tensors: Sequence[TrainedTensor], numerics: Numerics, device: Device
) -> list[int]:
    """Return the bytes of each state of a workload's optimizer over ``tensors``: all that it
    trains, or a rank's shards of them."""
    optimizer = optimizers()[workload.settings.optimizer.name]
    return state_sizes(optimizer, tensors, width=numerics.home, device=device)


def state_sizes(
    optimizer: OptimizerSpec, tensors: Sequence[TrainedTensor], *, width: int, device: Device
) -> list[int]:
    """Return the bytes of each optimizer state that the allocator holds."""
    own = [
        state
        for tensor in tensors
        for state in tensor_states(optimizer, tensor, width=width, device=device)
    ]
    states = [*shared_states(optimizer, tensors, device), *own]
    return [state.num_bytes for state in states if not state.paged]


def quantized_sizes(workload: Workload) -> list[int]:
    """Return the bytes of packed codes and of their constants, each its own tensor."""
    quantization = workload.settings.quantization
    if quantization is None:
        return []
    return [
        size
        for kind in workload.model.layers
        for matrix in workload.packed(kind)
        for size in quantized_tensors(matrix, quantization)
    ]
