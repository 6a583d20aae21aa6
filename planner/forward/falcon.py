"""Falcon's attention and layers, as transformers 5.23 writes them, on a tape of sizes.

Its mask is always made, and the one key-value head of Falcon-7B is not repeated for the queries.
No fused kernel takes such operands, so its scores are whole.

read: aten/src/ATen/native/transformers/sdp_utils_cpp.h at 2.13,
check_batch_size_and_num_heads_dense.
"""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.feed_forward import feed_forward
from planner.forward.norms import norm
from planner.forward.rotary import Tables, rotated
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.attention_kernels import fused_attention, safe_softmax
from planner.tape.attention_workspaces import HeadShape
from planner.tape.operators import INT64
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def falcon_layer(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables) -> Tensor:
    """Mirror FalconDecoderLayer.forward with parallel attention."""
    place, residual = layer.place, x
    x = norm(decoder, f"{place}.input_layernorm", x)
    for_mlp = x
    if decoder.workload.model.residual == "parallel-two-norms":
        for_mlp = norm(decoder, f"{place}.ln_mlp", residual)
    attended = _attention(decoder, layer, x, tables)
    fed = feed_forward(decoder, layer, for_mlp)
    fed = views.added_in_place(decoder.tape, fed, attended)
    return ops.add(decoder.tape, residual, fed, "residual after the layer")


def _attention(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables) -> Tensor:
    """Mirror FalconAttention.forward."""
    model, tape, batch = decoder.workload.model, decoder.tape, decoder.batch
    fused = decoder.linear(layer, "qkv_proj", x)
    query_size, key_size = batch.tokens * model.query_size, batch.tokens * model.key_value_size
    q = ops.slice_of(tape, fused, query_size)
    k, v = (_picked(tape, fused, key_size) for _ in range(2))
    whole_scores = model.num_key_value_heads == 1
    if not whole_scores:
        q = ops.contiguous(tape, q, "query, flattened")
        times = model.num_attention_heads // model.num_key_value_heads
        k, v = (ops.repeat_heads(tape, each, times, shared=False) for each in (k, v))
    q, k = rotated(tape, model, q, k, tables, [])
    k, v = decoder.cached(k, v)
    if decoder.numerics.autocast:
        width = decoder.numerics.compute
        q, k, v = (ops.cast(tape, each, width, "16-bit operand of attention") for each in (q, k, v))
    bias = tape.new(batch.scores, q.width, "attention mask as a bias")
    shape = HeadShape(
        batch=batch.micro_batch_size,
        length=batch.sequence_length,
        heads=model.num_attention_heads,
        key_value_heads=model.num_attention_heads,
        head_dim=model.head_dim,
    )
    if whole_scores:
        attended = _whole_attention(decoder, q, k, v, bias, shape)
    else:
        attended = fused_attention(
            tape,
            q,
            k,
            v,
            bias,
            shape=shape,
            device=batch.device,
            capability=batch.compute_capability,
            multiprocessors=batch.multiprocessors,
        )
    return decoder.linear(layer, "o_proj", attended)


def _whole_attention(
    decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shape: HeadShape
) -> Tensor:
    """Return the output of attention in fp32, with weights that are returned in 16 bit beside it.

    read: aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math.
    """
    tape, width = decoder.tape, q.width
    q, k, v = (
        ops.cast(tape, each, FP32_BYTES, "operand of attention in fp32") for each in (q, k, v)
    )
    q, k = ops.unary(tape, q, "query, scaled"), ops.unary(tape, k, "key, scaled")
    if shape.batch > 1:
        q = ops.contiguous(tape, q, "operand of a batched product")
    one_sample = shape.batch == 1
    k = ops.repeat_heads(tape, k, shape.heads, shared=one_sample)
    weights = ops.matmul(
        tape, q, k, shape.query_rows * shape.length, "scores", rows=shape.query_rows
    )
    weights = ops.add(tape, weights, bias, "masked scores")
    weights = safe_softmax(tape, weights, device=decoder.batch.device)
    _returned = ops.cast(tape, weights, width, "attention weights")
    v = ops.repeat_heads(tape, v, shape.heads, shared=one_sample)
    output = ops.matmul(
        tape, weights, v, q.elements, "attention output in fp32", rows=shape.query_rows
    )
    output = ops.cast(tape, output, width, "attention output")
    return ops.contiguous(tape, output, "attention output, made contiguous")


def _picked(tape: Tape, x: Tensor, elements: int) -> Tensor:
    """Return ``x[..., [i], :]``: a copy, whose gradient is as large as the whole; the index is
    saved."""
    whole, width = x.elements, x.width
    index = tape.new(1, INT64, "index of a head")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(whole, width, "gradient of a picked head")]

    return tape.record(tape.new(elements, width, "picked head"), (x,), (index,), backward)
