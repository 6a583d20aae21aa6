"""Workspaces of cuBLAS, and the largest matrix of a workload."""

from planner.base.units import ALLOCATOR_BLOCK_BYTES, KIB, MIB, round_up
from planner.hardware.cluster import Device
from planner.models.linear import Linear
from planner.workload.workload import Workload

CUBLAS_WORKSPACE_BYTES = round_up(8 * MIB + 128 * KIB, ALLOCATOR_BLOCK_BYTES)
HOPPER_CUBLAS_WORKSPACE_BYTES = 32 * MIB
HOPPER = "9.0"
"""Compute capability whose workspaces are larger; read: aten/src/ATen/cuda/CublasHandlePool.cpp,
parseChosenWorkspaceSize: 2 x 4096 KiB + 8 x 16 KiB, and 8 x 4096 KiB where the compute capability
is 9.0."""
CUBLAS_WORKSPACES = 2
"""Number of workspaces: one for the forward thread, one for autograd's."""


def cublas_workspaces(compute_capability: str | None) -> list[int]:
    """Return the bytes of each workspace; an unknown card is taken not to be a Hopper card."""
    hopper = compute_capability == HOPPER
    size = HOPPER_CUBLAS_WORKSPACE_BYTES if hopper else CUBLAS_WORKSPACE_BYTES
    return [size] * CUBLAS_WORKSPACES


def cublas_bytes(device: Device, compute_capability: str | None) -> int:
    """Return the bytes of all workspaces, which stay from the first product of a run to its end; 0
    on the CPU."""
    return sum(cublas_workspaces(compute_capability)) if device == "cuda" else 0


def largest_linear(workload: Workload) -> Linear:
    """Return the largest matrix of the model's layers."""
    return max(
        (linear for linear, _ in workload.model.counted_linears),
        key=lambda linear: linear.weight_params,
    )
