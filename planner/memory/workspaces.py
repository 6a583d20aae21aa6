"""Workspaces of cuBLAS."""

from planner.base.units import KIB, MIB, block
from planner.hardware.cluster import Device

CUBLAS_WORKSPACE_BYTES = block(8 * MIB + 128 * KIB)
LARGE_CUBLAS_WORKSPACE_BYTES = 32 * MIB
WITH_LARGE_WORKSPACES = ("9", "10", "12")
"""Major compute capabilities whose workspaces are larger: Hopper and Blackwell; read:
aten/src/ATen/cuda/CublasHandlePool.cpp at 2.13, parseChosenWorkspaceSize: 2 x 4096 KiB + 8 x 16
KiB, and 8 x 4096 KiB for these. cublasLt's workspace is the same one
(unified_cublas_and_lt_workspaces, getCUDABlasLtWorkspace)."""
CUBLAS_WORKSPACES = 2
"""Number of workspaces: one for the forward thread, one for autograd's."""


def cublas_workspaces(compute_capability: str | None) -> list[int]:
    """Return the bytes of each workspace; an unknown card is taken to be older than Hopper."""
    major = (compute_capability or "").partition(".")[0]
    large = major in WITH_LARGE_WORKSPACES
    size = LARGE_CUBLAS_WORKSPACE_BYTES if large else CUBLAS_WORKSPACE_BYTES
    return [size] * CUBLAS_WORKSPACES


def cublas_bytes(device: Device, compute_capability: str | None) -> int:
    """Return the bytes of all workspaces, which stay from the first product of a run to its end; 0
    on the CPU."""
    return sum(cublas_workspaces(compute_capability)) if device == "cuda" else 0
