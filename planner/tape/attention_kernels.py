"""Attention kernels as bytes: what they save, and what they allocate inside."""

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.tape.attention_workspaces import (
    HeadShape,
    flash_accumulators,
    flash_workspace,
    is_older,
    memory_efficient_workspace,
)
from planner.tape.operators import (
    add,
    cast,
    contiguous,
    dropout,
    matmul,
    repeat_heads,
    unary,
)
from planner.tape.tape import ProductKind, Tape
from planner.tape.tensors import Tensor
from planner.workload.workload import Batch

ATTENTION_FORWARD, ATTENTION_BACKWARD = 2, 5
"""Products of scores in a fused kernel, forward and backward (Dao, arXiv:2307.08691, section
3.1.2)."""


def fused_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    *,
    shape: HeadShape,
    device: Device,
    capability: str | None,
    multiprocessors: int | None = None,
) -> Tensor:
    """Return the output of scaled dot product attention: scores are never whole, their log-sum-exp
    is saved.

    Without a bias half of the scores are masked, and skipped. ``capability`` is the card's; None
    for one with flash attention, as ``multiprocessors`` are; None where they do not count.
    """
    sizes = tuple((x.elements, x.width) for x in (query, key, value))
    query_width = query.width
    flops = 2 * shape.query_rows * shape.length * (shape.head_dim + shape.values)
    flops = flops if bias is not None else flops // 2
    moved = sum(elements * width for elements, width in sizes) + query.width * (
        shape.output_elements
    )
    kind: ProductKind = "attention" if bias is None else "masked attention"
    tape.multiplies(flops, moved, query.width, kind=kind, length=shape.length)
    is_flash = bias is None and query_width < FP32_BYTES and not is_older(capability)
    output = tape.new(shape.output_elements, query.width, "attention output")
    statistics = tape.new(shape.query_rows, FP32_BYTES, "log-sum-exp of the scores")
    saved = (query, key, value, output, statistics, *((bias,) if bias is not None else ()))

    if is_flash:
        flash_accumulators(tape, shape, multiprocessors)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        work = flops * ATTENTION_BACKWARD // ATTENTION_FORWARD, 2 * moved, query_width
        tape.multiplies(*work, kind=kind, length=shape.length)
        gradients: list[Tensor | None] = [
            tape.new(size, width, f"gradient of the {name}")
            for (size, width), name in zip(sizes, ("query", "key", "value"), strict=True)
        ]
        if device == "cuda" and is_flash:
            flash_workspace(tape, shape, query_width)
        elif device == "cuda":
            memory_efficient_workspace(tape, shape, query_width, capability)
        return gradients

    return tape.record(output, (query, key, value), saved, backward)


def eager_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    shape: HeadShape,
    device: Device,
    compute: int | None,
    mask_width: int,
    capped: bool,
    drops: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the output of transformers' eager_attention_forward, whose scores are whole, and the
    weights, which the caller holds to the end of its layer.

    ``compute`` is the width of products under autocast, None without it; ``capped`` is for Gemma 2,
    which caps the scores by ``tanh``; ``drops`` is whether weights drop out.
    """
    key, value = repeated_heads(tape, key, value, shape)
    weights = scores(tape, operand(tape, query, compute), operand(tape, key, compute), shape)
    weights = unary(tape, weights, "scaled scores")
    if capped:
        weights = unary(tape, weights, "scores over their cap")
        weights = unary(tape, weights, "tanh of the scores", saves="output")
        weights = unary(tape, weights, "capped scores")
    mask = Tensor(weights.elements, mask_width, None, None)
    weights = add(tape, weights, mask, "masked scores")
    weights = cast(tape, softmax(tape, weights, device=device), query.width, "attention weights")
    if drops:
        weights = dropout(tape, weights, device=device)
    operands = operand(tape, weights, compute), operand(tape, value, compute)
    output = _weighted(tape, *operands, shape)
    return contiguous(tape, output, "attention output, made contiguous"), weights


def repeated_heads(
    tape: Tape, key: Tensor, value: Tensor, shape: HeadShape
) -> tuple[Tensor, Tensor]:
    """Return transformers' repeat_kv of both."""
    times, shared = shape.heads // shape.key_value_heads, shape.key_value_heads == 1
    key = repeat_heads(tape, key, times, shared=shared)
    return key, repeat_heads(tape, value, times, shared=shared)


def operand(tape: Tape, x: Tensor, compute: int | None) -> Tensor:
    """Return the tensor as autocast gives it to a product; ``compute`` is None without autocast."""
    return x if compute is None else cast(tape, x, compute, "16-bit operand of attention")


def has_fused_kernel(
    *,
    batch: Batch,
    width: int,
    fp16: bool,
    grouped: bool,
    masked: bool = False,
    drops: bool = False,
) -> bool:
    """Return whether flash or memory-efficient attention takes operands of this width, in fp16 or
    not, with query heads that share keys and values or not.

    read: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp at 2.13. can_use_flash_attention: 16
    bit, from compute capability 8.0 on, without a mask. can_use_mem_efficient_attention: fp32 and
    fp16 on every card, bf16 from 8.0 on, and heads that share nothing: transformers copies keys and
    values where there is a mask, which memory-efficient attention takes. sdp_utils_cpp.cpp: the
    CPU's kernel takes all but weights that drop out.
    """
    if batch.device == "cpu":
        return not drops
    if masked:
        return True
    older = is_older(batch.compute_capability)
    if grouped:
        return width < FP32_BYTES and not older
    return width == FP32_BYTES or fp16 or not older


def lies_as_query(*, batch: Batch, width: int, masked: bool) -> bool:
    """Return whether the output lies in memory as the query does: as flash attention and the CPU's
    kernel make it. Memory-efficient attention puts the heads of a token beside each other.

    read: aten/src/ATen/native/transformers/cuda at 2.13: flash_attn/flash_api.cpp, mha_fwd;
    attention.cu, _efficient_attention_forward.
    """
    if batch.device == "cpu":
        return True
    older = is_older(batch.compute_capability)
    return not masked and width < FP32_BYTES and not older


def math_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    shape: HeadShape,
    device: Device,
    mask_elements: int | None = None,
    drops: bool = False,
) -> Tensor:
    """Return the output of PyTorch's own attention where no fused kernel takes the operands: scores
    are whole, and in fp32. ``mask_elements`` are those of a mask that is given, None for a causal
    one; ``drops`` is whether weights drop out.

    read: aten/src/ATen/native/transformers/attention.cpp at 2.13,
    _scaled_dot_product_attention_math: its variables hold the operands in fp32, the mask, the
    copied keys, and the weights in the operands' dtype until it returns; query and key are scaled
    by the root of the scale before their product; the mask is added in place.
    """
    width, times = query.width, shape.heads // shape.key_value_heads
    query, key, value = (
        cast(tape, x, FP32_BYTES, "operand of attention in fp32") for x in (query, key, value)
    )
    scaled = unary(tape, query, "query, scaled")
    _mask = tape.new(mask_elements or shape.length**2, FP32_BYTES, "attention mask as a bias")
    copied, copied_value = (repeat_heads(tape, x, times, shared=False) for x in (key, value))
    weights = scores(tape, scaled, unary(tape, copied, "key, scaled"), shape)
    weights = safe_softmax(tape, weights, device=device)
    if drops:
        weights = dropout(tape, weights, device=device)
    _returned = cast(tape, weights, width, "attention weights")
    output = _weighted(tape, weights, copied_value, shape)
    return cast(tape, output, width, "attention output")


def scores(tape: Tape, query: Tensor, key: Tensor, shape: HeadShape) -> Tensor:
    """Return the product of every query with every key."""
    operands = (query, key)
    if shape.value_dim is None:
        operands = (_batched(tape, query, shape), _batched_heads(tape, key, shape))
    elements = shape.query_rows * shape.length
    return matmul(tape, *operands, elements, "scores", rows=shape.query_rows)


def _weighted(tape: Tape, weights: Tensor, value: Tensor, shape: HeadShape) -> Tensor:
    batched = _batched if shape.value_dim is not None else _batched_heads
    value = batched(tape, value, shape)
    elements, rows = shape.output_elements, shape.query_rows
    return matmul(tape, weights, value, elements, "attention output", rows=rows)


def _batched_heads(tape: Tape, x: Tensor, shape: HeadShape) -> Tensor:
    """Return keys or values as operands of a batched product; those that were copied for every
    query head lie in that order already."""
    return x if 1 < shape.key_value_heads < shape.heads else _batched(tape, x, shape)


def _batched(tape: Tape, x: Tensor, shape: HeadShape) -> Tensor:
    """Return heads and samples as one dimension; this needs a copy if there are several samples."""
    return contiguous(tape, x, "operand of a batched product") if shape.batch > 1 else x


def softmax(tape: Tape, scores: Tensor, *, device: Device) -> Tensor:
    """Return ``softmax(dtype=torch.float32)``, which is saved.

    read: aten/src/ATen/native/cuda/SoftMax.cu: the gradient's kernel makes ``grad * output`` first.
    aten/src/ATen/native/SoftMax.cpp, softmax: on CUDA it reads fp16 and returns it as the gradient;
    bf16, and fp16 elsewhere, is cast before.
    """
    direct = device == "cuda" and tape.fp16 and scores.width < FP32_BYTES
    if not direct:
        scores = cast(tape, scores, FP32_BYTES, "scores in fp32")
    elements, width = scores.elements, scores.width
    tape.exponentiates()
    output = tape.new(elements, FP32_BYTES, "softmax in fp32")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _inside = tape.new(elements, FP32_BYTES, "gradient x output") if device == "cuda" else None
        return [tape.new(elements, width, "gradient of the scores")]

    return tape.record(output, (scores,), (output,), backward)


def safe_softmax(tape: Tape, scores: Tensor, *, device: Device) -> Tensor:
    """Return ``_safe_softmax``, in which a row that is masked out is zero.

    read: aten/src/ATen/native/transformers/attention.cpp at 2.13: beside the softmax, which scores
    are minus infinity; rows of these alone are filled in place (counted on a simulated card).
    """
    output = softmax(tape, scores, device=device)
    _infinite = tape.new(scores.elements, 1, "masked scores") if device == "cuda" else None
    return output
