"""Memory that is neither model state nor activation: workspaces and communication."""

from planner.linear import Linear
from planner.numerics import Numerics
from planner.plan import ZeroSection, ZeroStage
from planner.recipe import Workload
from planner.units import ALLOCATOR_BLOCK_BYTES, KIB, MIB, round_up

FP32_BYTES = 4

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


def zero_gradient_buckets(zero: ZeroSection, stage: ZeroStage, numerics: Numerics) -> int:
    """Contiguous gradients on their way: two buckets to overlap in stages 1 and 2, one in 3.

    read: deepspeed/runtime/zero/stage_1_and_2.py and stage3.py at 0.19.8, ipg_buckets.
    """
    buckets = 1 if stage == 3 else 2
    return buckets * zero.reduce_bucket_size * numerics.gradient


def zero_step_casts(
    *, shard_params: int, zero: ZeroSection, stage: ZeroStage, numerics: Numerics
) -> int:
    """fp32 gradients of a step, and the 16-bit shard flattened for them.

    read: deepspeed/runtime/zero/stage_1_and_2.py, step: stage 2 already holds its shard flat;
    stage3.py, _prepare_fp32_grad_for_sub_group: one sub-group at a time.
    """
    params = min(shard_params, zero.sub_group_size) if stage == 3 else shard_params
    flattened = 0 if stage == 2 else numerics.gradient
    return params * (flattened + FP32_BYTES)


def zero3_gathered(workload: Workload, zero: ZeroSection, numerics: Numerics) -> int:
    """Parameters gathered at once: what may stay live, and never less than the largest matrix.

    read: deepspeed/runtime/zero/partitioned_param_coordinator.py at 0.19.8: prefetching
    stops at max_live_parameters.
    """
    model = workload.model
    largest = model.largest_matrix_params
    live = max(zero.max_live_parameters, largest + zero.prefetch_bucket_size)
    return min(live, model.num_params) * numerics.compute


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
