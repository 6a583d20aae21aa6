"""Self-attention layers, as transformers 5.23 writes them, on a tape of sizes.

The kernels that they call are in planner/attention.py.
"""

from dataclasses import replace

from planner import operators as ops
from planner.attention import HeadShape, eager_attention, fused_attention, math_attention
from planner.decoder import Decoder, Layer
from planner.norms import norm
from planner.rotary import Tables, rotated
from planner.tensors import Tensor


def self_attention(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables
) -> tuple[Tensor, Tensor | None]:
    """LlamaAttention.forward; a fused projection is held to its end, as in Phi-3's."""
    _whole, q, k, v = _projected(decoder, layer, x)
    q, k = rotated(decoder.tape, decoder.workload.model, q, k, tables)
    attended, weights = _attend(decoder, layer, q, k, v)
    return decoder.linear(layer, "o_proj", attended), weights


def _projected(
    decoder: Decoder, layer: Layer, x: Tensor
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Query, key and value; before them the tensor that they are parts of, if any."""
    model = decoder.workload.model
    if model.fused_qkv:
        whole = decoder.linear(layer, "qkv_proj", x)
        sizes = (model.query_size, model.key_value_size, model.key_value_size)
        q, k, v = (ops.slice_of(decoder.tape, whole, decoder.batch.tokens * n) for n in sizes)
        return whole, q, k, v
    q = decoder.linear(layer, "q_proj", x)
    if model.qk_norm:
        q = norm(decoder, f"{layer.place}.q_norm", q, model.head_dim)
    k = decoder.linear(layer, "k_proj", x)
    if model.qk_norm:
        k = norm(decoder, f"{layer.place}.k_norm", k, model.head_dim)
    return None, q, k, decoder.linear(layer, "v_proj", x)


def _attend(
    decoder: Decoder, layer: Layer, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The output, and the weights where they are whole."""
    model, batch = decoder.workload.model, decoder.batch
    shape = HeadShape(
        batch=batch.micro_batch_size,
        length=batch.sequence_length,
        heads=model.num_attention_heads,
        key_value_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
    )
    if decoder.workload.recipe.attention == "eager":
        return eager_attention(decoder.tape, q, k, v, shape=shape, device=batch.device)
    return _fused(decoder, q, k, v, shape, masked=decoder.masked(layer.kind)), None


def _fused(
    decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, shape: HeadShape, *, masked: bool
) -> Tensor:
    """sdpa_attention_forward: with a mask every query head has its own keys and values."""
    tape, batch, kinds, bias = decoder.tape, decoder.batch, decoder.numerics, None
    grouped = shape.heads != shape.key_value_heads
    if grouped and kinds.grouped_heads == "math" and not masked:
        return math_attention(tape, q, k, v, shape=shape, device=batch.device)
    if masked or kinds.grouped_heads == "copied":
        times = shape.heads // shape.key_value_heads
        k, v = ops.repeat_heads(tape, k, times), ops.repeat_heads(tape, v, times)
        shape = replace(shape, key_value_heads=shape.heads)
    if kinds.autocast:
        width = kinds.compute
        q, k, v = (ops.cast(tape, x, width, "16-bit operand of attention") for x in (q, k, v))
    if masked:
        bias = tape.new(batch.scores, q.width, "attention mask as a bias")
    attended = fused_attention(tape, q, k, v, bias, shape=shape, device=batch.device)
    if decoder.workload.model.rotary != "halves":
        attended = ops.contiguous(tape, attended, "attention output, made contiguous")
    return attended
