"""Memory that is neither model state nor kept activation: loss, workspaces, communication.

t  tokens of a micro-batch     h  hidden_size     V  vocab_size
"""

from typing import Literal

from planner.activations import Batch
from planner.model import Linear
from planner.numerics import Numerics
from planner.plan import ZeroSection, ZeroStage
from planner.recipe import Workload
from planner.units import MIB, round_up

FP32_BYTES = 4

FUSED_LOSS_TOKENS = 4096
"""read: trl/kernels/chunked_logprob.py at 1.16.0, TOKEN_CHUNK_SIZE."""
FUSED_LOSS_VOCABULARY = 32768
"""read: trl/trainer/utils.py at 1.16.0, _CHUNKED_LOGPROB_CHUNK_SIZE."""
FUSED_LOSS_STATISTICS = 12
"""fp32 values per token: seven running ones and the outputs; same file."""

TORCH_TILE_BYTES = {"forward": 3 * FP32_BYTES + 1, "backward": 7 * FP32_BYTES + 1}
"""Per logit of a tile where there is no Triton, as on the CPU: fp32 copies and a mask; same
file, _forward_tile and _backward_tile. The Triton kernels work inside the tile."""

CUBLAS_WORKSPACE_BYTES = round_up(8 * MIB + 128 * 1024, 512)
"""read: aten/src/ATen/cuda/CUDABlas.cpp, parseChosenWorkspaceSize: 2 x 4096 KiB + 8 x 16 KiB."""
CUBLAS_WORKSPACES = 2
"""One for the forward thread, one for autograd's."""

ZERO3_SUB_GROUP_SIZE = 10**8
"""Ours: ZeRO-3 updates this many of a rank's parameters at once, so that the fp32 gradients
of a step stay small; DeepSpeed's own default is ten times as many."""


def fused_loss_forward(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """trl's fused head: tiles of logits instead of all of them, and the selected inputs."""
    selected = batch.tokens * workload.model.hidden_size * numerics.residual
    tile = _fused_tile(workload, batch, numerics, "forward") + _head_casts(
        workload, batch, numerics
    )
    return selected + tile


def fused_loss_backward(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """The tile again, the input's gradient in fp32 and cast, and a trained head's gradient.

    Selected positions, their gradient scattered back, and the slice's gradient are each
    ``t h``; the head's gradient is gathered in fp32 before it is cast.
    """
    hidden = batch.tokens * workload.model.hidden_size
    gradients = hidden * FP32_BYTES + 2 * hidden * numerics.residual
    head = 0
    if workload.method == "full":
        head = workload.model.embedding_params * FP32_BYTES
        if numerics.gradient != FP32_BYTES:
            head += workload.model.embedding_params * numerics.gradient
    selected = hidden * numerics.residual
    tile = _fused_tile(workload, batch, numerics, "backward") + _head_casts(
        workload, batch, numerics
    )
    return selected + tile + gradients + head


def _fused_tile(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    direction: Literal["forward", "backward"],
) -> int:
    tokens = min(batch.tokens, FUSED_LOSS_TOKENS)
    tile = tokens * FUSED_LOSS_VOCABULARY * numerics.compute
    copies = 0
    if batch.device == "cpu":
        used = tokens * min(workload.model.vocab_size, FUSED_LOSS_VOCABULARY)
        copies = used * TORCH_TILE_BYTES[direction]
    return tile + copies + batch.tokens * FUSED_LOSS_STATISTICS * FP32_BYTES


def _head_casts(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """16-bit copies of a slice of an fp32 head and of its input, under autocast."""
    if not (numerics.autocast and workload.method == "full"):
        return 0
    rows = min(workload.model.vocab_size, FUSED_LOSS_VOCABULARY)
    tokens = min(batch.tokens, FUSED_LOSS_TOKENS)
    return (rows + tokens) * workload.model.hidden_size * numerics.compute


def standard_loss_forward(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """Stock cross-entropy: logits, their fp32 copy, the shifted copy and log-probabilities."""
    logits = batch.tokens * workload.model.vocab_size
    copies = 1 if numerics.compute == FP32_BYTES else 2
    return logits * numerics.compute + copies * logits * FP32_BYTES


def standard_loss_backward(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """Logits stay alive; log-probabilities and two gradients in fp32 at once."""
    logits = batch.tokens * workload.model.vocab_size
    return logits * numerics.compute + 3 * logits * FP32_BYTES


def layer_forward(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """Tensors alive at once in the MLP of a layer whose activations are not kept.

    Gate, up, silu(gate) and their product; adapters on fp32 cast that once more.
    """
    wide = batch.tokens * workload.model.intermediate_size
    adapters = wide * FP32_BYTES if numerics.autocast and workload.method == "lora" else 0
    return 4 * wide * numerics.compute + adapters


def layer_backward(workload: Workload, batch: Batch, numerics: Numerics) -> int:
    """Gradients alive at once while the MLP of one layer is differentiated.

    Beside the gradients of the layer's output and of its residual there are two as wide as
    SwiGLU's product: what is kept for the product goes as they come. A 16-bit base with fp32
    adapters holds two more in fp32: lora_A's gradient as cast, and before dropout.
    """
    stream = 2 * batch.tokens * workload.model.hidden_size * numerics.residual
    wide = batch.tokens * workload.model.intermediate_size
    adapters = 0
    if numerics.autocast and workload.method == "lora":
        adapters = 2 * wide * FP32_BYTES
    return stream + 2 * wide * numerics.compute + adapters


def dequantization_workspace(workload: Workload, numerics: Numerics) -> int:
    """One matrix in 16 bit, its scales in fp32: bitsandbytes multiplies after dequantizing.

    read: bitsandbytes/autograd/_functions.py at 0.50.2, MatMul4Bit.
    """
    if workload.recipe.quantization is None:
        return 0
    largest = largest_linear(workload)
    scales = largest.weight_params // 64 * FP32_BYTES
    return largest.weight_params * numerics.compute + scales


def largest_linear(workload: Workload) -> Linear:
    return max(workload.model.layer_linears, key=lambda linear: linear.weight_params)


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
    largest = max(model.embedding_params, largest_linear(workload).num_params)
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
