"""Memory that is neither model state nor activation: workspaces and communication."""

from planner.linear import Linear
from planner.recipe import Workload
from planner.units import ALLOCATOR_BLOCK_BYTES, KIB, MIB, round_up

CUBLAS_WORKSPACE_BYTES = round_up(8 * MIB + 128 * KIB, ALLOCATOR_BLOCK_BYTES)
"""read: aten/src/ATen/cuda/CUDABlas.cpp, parseChosenWorkspaceSize: 2 x 4096 KiB + 8 x 16 KiB."""
CUBLAS_WORKSPACES = 2
"""One for the forward thread, one for autograd's."""


def largest_linear(workload: Workload) -> Linear:
    return max(
        (linear for linear, _ in workload.model.counted_linears),
        key=lambda linear: linear.weight_params,
    )
