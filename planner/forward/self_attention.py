"""Self-attention layers, as transformers 5.23 writes them, on a tape of sizes.

The kernels that they call are in planner/tape/attention_kernels.py.
"""

from typing import NamedTuple

from msgspec import structs

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.norms import norm, unweighted_norm
from planner.forward.rotary import Tables, rotated
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.attention_kernels import (
    eager_attention,
    fused_attention,
    has_fused_kernel,
    lies_as_query,
    math_attention,
    repeated_heads,
)
from planner.tape.attention_workspaces import HeadShape
from planner.tape.sink_attention import sink_attention
from planner.tape.tensors import Tensor

SPLIT = ("gpt2", "gpt_neox")
"""Architectures that split a fused projection at once; the others take slices of it. GPT-NeoX
splits each head's, after it has put the heads first."""


class _Projected(NamedTuple):
    """Query, key and value of a layer."""

    query: Tensor
    key: Tensor
    value: Tensor
    whole: Tensor | None = None
    """The tensor that they are parts of, if there is one."""
    gate: Tensor | None = None
    """The gate of attention's output."""


def self_attention(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None
) -> tuple[Tensor, Tensor | None]:
    """Mirror LlamaAttention.forward; a fused projection is held to its end, as in Phi-3's, and a
    gate multiplies the output, as in Qwen3_5Attention.forward."""
    rotates = tables is not None and layer.kind.rotates
    q, k, v, _whole, gate = _projected(decoder, layer, x, rotates=rotates)
    _parts: list[Tensor] = []
    if tables is not None and rotates:
        q, k = rotated(decoder.tape, decoder.workload.model, q, k, tables, _parts)
    if decoder.workload.model.qk_norm == "heads-rotated":
        q = _normed(decoder, layer, "query_layernorm", q)
        k = _normed(decoder, layer, "key_layernorm", k)
    if decoder.workload.model.qk_norm == "unweighted-rotated" and layer.kind.rotates:
        size = decoder.workload.model.head_dim
        q, k = (unweighted_norm(decoder, x, name, size) for x, name in ((q, "query"), (k, "key")))
    if decoder.workload.model.tempered_attention and not layer.kind.rotates:
        q = _tempered(decoder, q)
    k, v = decoder.cached(k, v)
    attended, weights = attend(decoder, layer, q, k, v)
    if gate is not None:
        opened = ops.unary(decoder.tape, gate, "sigmoid of the gate", saves="output")
        attended = ops.mul(decoder.tape, attended, opened, "attention output, gated")
        del opened
    return decoder.linear(layer, "o_proj", attended), weights


def _projected(decoder: Decoder, layer: Layer, x: Tensor, *, rotates: bool) -> _Projected:
    model = decoder.workload.model
    if model.fused_qkv:
        return _parted(decoder, layer, decoder.linear(layer, "qkv_proj", x), rotates=rotates)
    views_of = _by_heads(decoder, layer, rotates=rotates)
    q, gate = decoder.linear(layer, "q_proj", x), None
    if model.gated_attention:
        q, gate = views.split(decoder.tape, q, [q.elements // 2] * 2)
        gate = ops.contiguous(decoder.tape, gate, "gate, made contiguous")
    if model.model_type == "opt":
        q = ops.unary(decoder.tape, q, "query, scaled")
    if not model.gated_attention:
        q = _viewed(decoder, q, "query", views_of)
    if model.qk_norm in ("heads", "whole"):
        q = _normed(decoder, layer, "q_norm", q)
    k = decoder.linear(layer, "k_proj", x)
    if model.model_type == "falcon_h1":
        k = ops.unary(decoder.tape, k, "key, scaled")
    k = _viewed(decoder, k, "key", views_of)
    if model.qk_norm in ("heads", "whole"):
        k = _normed(decoder, layer, "k_norm", k)
    v = _viewed(decoder, decoder.linear(layer, "v_proj", x), "value", views_of)
    return _Projected(q, k, v, gate=gate)


def _parted(decoder: Decoder, layer: Layer, whole: Tensor, *, rotates: bool) -> _Projected:
    """Return the parts of a fused projection."""
    model, tape = decoder.workload.model, decoder.tape
    widths = (model.query_size, model.key_value_size, model.key_value_size)
    sizes = [decoder.batch.tokens * width for width in widths]
    if model.model_type == "gpt_neox":
        whole = views.reordered(tape, whole, "query, key and value")
    if model.model_type in SPLIT:
        q, k, v = views.split(tape, whole, sizes)
    else:
        q, k, v = (ops.slice_of(tape, whole, size) for size in sizes)
    if model.model_type != "gpt_neox":
        views_of = _by_heads(decoder, layer, rotates=rotates)
        q, k, v = (
            _viewed(decoder, part, name, views_of)
            for part, name in ((q, "query"), (k, "key"), (v, "value"))
        )
    return _Projected(q, k, v, whole=whole)


def _by_heads(decoder: Decoder, layer: Layer, *, rotates: bool) -> frozenset[str]:
    """Return which of query, key and value get gradients whose heads lie one after the other, so
    that the view of their projection by heads copies these.

    Fused kernels leave the heads of a token beside each other. A slice of a rotation, a sum over
    copied heads and a product with whole scores do not; a single head has nothing to reorder. Llama
    4 turns pairs before it puts heads first.
    """
    model, whole = decoder.workload.model, decoder.workload.attention == "eager"
    heads = model.heads(layer.kind)
    turned = rotates and model.rotary != "complex"
    copied = heads.queries != heads.key_values and (
        whole or decoder.masked(layer.kind) or decoder.numerics.grouped_heads == "copied"
    )
    if decoder.batch.sequence_ranks > 1:  # tokens come before samples
        copied = whole = decoder.batch.micro_batch_size > 1
    found = {"query": turned or whole, "key": turned or copied, "value": copied or whole}
    alone = {"query": heads.queries == 1, "key": heads.key_values == 1}
    alone["value"] = alone["key"]
    return frozenset(name for name, by_heads in found.items() if by_heads and not alone[name])


def _viewed(decoder: Decoder, x: Tensor, name: str, by_heads: frozenset[str]) -> Tensor:
    """Return a projection as its heads."""
    return views.reordered(decoder.tape, x, name) if name in by_heads else x


def _tempered(decoder: Decoder, q: Tensor) -> Tensor:
    """Return the queries times a scale for each position, which is in fp32."""
    tape = decoder.tape
    scales = tape.new(decoder.batch.sequence_length, FP32_BYTES, "scales of the positions")
    scaled = ops.mul(tape, q, scales, "query, scaled by position")
    return ops.cast(tape, scaled, q.width, "query, scaled by position, cast")


def _normed(decoder: Decoder, layer: Layer, name: str, x: Tensor) -> Tensor:
    """Return queries or keys through their norm, over each head or over all at once."""
    model = decoder.workload.model
    whole = x.elements // decoder.batch.tokens
    size = whole if model.qk_norm == "whole" else model.head_dim
    return norm(decoder, f"{layer.place}.{name}", x, size)


def attend(
    decoder: Decoder, layer: Layer, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the output, and the weights where they are whole."""
    model, batch = decoder.workload.model, decoder.batch
    heads = model.heads(layer.kind)
    shape = HeadShape(
        batch=batch.micro_batch_size,
        length=batch.sequence_length,
        heads=heads.queries,
        key_value_heads=heads.key_values,
        head_dim=heads.head_dim,
    )
    if batch.sequence_ranks > 1:
        return _shared(decoder, q, k, v, shape), None
    if model.attention_sinks:
        return _with_sinks(decoder, layer, (q, k, v), shape)
    if decoder.workload.attention == "eager":
        return eager_attention(
            decoder.tape,
            q,
            k,
            v,
            shape=shape,
            device=batch.device,
            compute=decoder.numerics.compute if decoder.numerics.autocast else None,
            mask_width=decoder.residual_width,
            capped=model.attn_logit_softcapping is not None,
            drops=model.attention_dropout > 0,
        )
    by_head = model.rotary in ("joined", "interleaved")
    masked = decoder.masked(layer.kind)
    return _fused(decoder, q, k, v, shape, masked=masked, by_head=by_head), None


def _shared(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, shape: HeadShape) -> Tensor:
    """Return the output for the tokens of one of the ranks that share a sequence."""
    from planner.forward.shared_sequence import shared_attention  # few plans share one

    tape, batch = decoder.tape, decoder.batch

    def attend(q: Tensor, k: Tensor, v: Tensor, inside: HeadShape) -> Tensor:
        return _fused(decoder, q, k, v, inside, masked=False, by_head=inside.heads > 1)

    output = shared_attention(tape, q, k, v, attend, shape=shape, ranks=batch.sequence_ranks)
    if shape.batch > 1:
        output = ops.contiguous(tape, output, "attention output, samples first")
    return output


def _with_sinks(
    decoder: Decoder, layer: Layer, heads: tuple[Tensor, Tensor, Tensor], shape: HeadShape
) -> tuple[Tensor, Tensor]:
    kinds, batch = decoder.numerics, decoder.batch
    return sink_attention(
        decoder.tape,
        *heads,
        decoder.parameter(f"{layer.place}.sinks", shape.heads),
        shape=shape,
        device=batch.device,
        compute=kinds.compute if kinds.autocast else None,
        mask_width=decoder.residual_width,
    )


def _fused(
    decoder: Decoder,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shape: HeadShape,
    *,
    masked: bool,
    by_head: bool,
) -> Tensor:
    """Mirror sdpa_attention_forward: with a mask every query head has its own keys and values.
    ``by_head`` is whether queries lie in memory head by head."""
    tape, batch, kinds, bias = decoder.tape, decoder.batch, decoder.numerics, None
    grouped = shape.heads != shape.key_value_heads
    if masked or kinds.grouped_heads == "copied":
        k, v = repeated_heads(tape, k, v, shape)
        shape, grouped = structs.replace(shape, key_value_heads=shape.heads), False
    if kinds.autocast:
        width = kinds.compute
        q, k, v = (ops.cast(tape, x, width, "16-bit operand of attention") for x in (q, k, v))
    drops = decoder.workload.model.attention_dropout > 0
    if not has_fused_kernel(
        batch=batch, width=q.width, fp16=tape.fp16, grouped=grouped, masked=masked, drops=drops
    ):
        return math_attention(
            tape,
            q,
            k,
            v,
            shape=shape,
            device=batch.device,
            mask_elements=batch.scores if masked else None,
            drops=drops,
        )
    if masked:
        bias = tape.new(batch.scores, q.width, "attention mask as a bias")
    is_copied = by_head and lies_as_query(batch=batch, width=q.width, masked=masked)
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
    if is_copied:
        attended = ops.contiguous(tape, attended, "attention output, made contiguous")
    return attended
