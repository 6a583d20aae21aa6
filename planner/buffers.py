"""Memory that is neither model state nor activation: workspaces and communication."""

from planner.model import Linear
from planner.numerics import Numerics
from planner.plan import ZeroSection
from planner.recipe import Workload
from planner.units import ALLOCATOR_BLOCK_BYTES, KIB, MIB, round_up

CUBLAS_WORKSPACE_BYTES = round_up(8 * MIB + 128 * KIB, ALLOCATOR_BLOCK_BYTES)
"""read: aten/src/ATen/cuda/CUDABlas.cpp, parseChosenWorkspaceSize: 2 x 4096 KiB + 8 x 16 KiB."""
CUBLAS_WORKSPACES = 2
"""One for the forward thread, one for autograd's."""

ZERO3_SUB_GROUP_SIZE = 10**8
"""Ours: ZeRO-3 updates this many of a rank's parameters at once, so that the fp32 gradients
of a step stay small; DeepSpeed's own default is ten times as many."""


def largest_linear(workload: Workload) -> Linear:
    return max(
        (linear for linear, _ in workload.model.counted_linears),
        key=lambda linear: linear.weight_params,
    )


def ddp_buckets(trainable_params: int, numerics: Numerics) -> int:
    """DDP copies every gradient into flat buckets before it reduces them.

    read: torch/csrc/distributed/c10d/reducer.cpp; accelerate leaves
    gradient_as_bucket_view off.
    """
    return trainable_params * numerics.gradient


def zero_sizes(hidden_size: int, layer_params: int) -> ZeroSection:
    """DeepSpeed's buckets for a model: small beside its layers, large enough to be efficient.

    Hugging Face's rule for "auto" (h^2 to reduce, 0.9 h^2 to prefetch, 10 h to keep;
    transformers/integrations/deepspeed.py) and one layer beyond the running one live.
    """
    square = hidden_size * hidden_size
    return ZeroSection(
        reduce_bucket_size=max(square, 2**20),
        allgather_bucket_size=max(square, 2**20),
        prefetch_bucket_size=square * 9 // 10,
        max_live_parameters=2 * layer_params,
        param_persistence_threshold=10 * hidden_size,
        sub_group_size=ZERO3_SUB_GROUP_SIZE,
    )
