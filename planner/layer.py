"""Decoder layers, as transformers 5.23 writes them, on a tape of sizes."""

from collections.abc import Mapping
from typing import NamedTuple

from planner import operators as ops
from planner.decoder import Decoder, Layer
from planner.experts import mixture
from planner.feed_forward import feed_forward
from planner.model import Norms
from planner.norms import norm
from planner.rotary import Tables
from planner.self_attention import self_attention
from planner.tensors import Tensor


class _NormNames(NamedTuple):
    """The layer's norms, by what they stand before or after; nothing where there is none."""

    before_attention: str | None = None
    after_attention: str | None = None
    before_mlp: str | None = None
    after_mlp: str | None = None


NORM_NAMES: Mapping[Norms, _NormNames] = {
    "before": _NormNames(before_attention="input_layernorm", before_mlp="post_attention_layernorm"),
    "after": _NormNames(
        after_attention="post_attention_layernorm", after_mlp="post_feedforward_layernorm"
    ),
    "around": _NormNames(
        before_attention="input_layernorm",
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
    ),
}
"""Names of Llama, OLMo-2 and Gemma 2. GLM-4-0414 calls those around otherwise."""


def decoder_layer(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables) -> Tensor:
    """LlamaDecoderLayer.forward, and those of Gemma 2, Glm4, Olmo2 and Granite."""
    names = NORM_NAMES[decoder.workload.model.norms]
    residual = x
    x = _norm(decoder, layer, names.before_attention, x)
    x, _weights = self_attention(decoder, layer, x, tables)
    x = _norm(decoder, layer, names.after_attention, x)
    x = _added(decoder, residual, x, "residual after attention")
    residual = x
    x = _norm(decoder, layer, names.before_mlp, x)
    x = _mlp(decoder, layer, x)
    x = _norm(decoder, layer, names.after_mlp, x)
    return _added(decoder, residual, x, "residual after the MLP")


def _mlp(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    experts = decoder.workload.model.experts if layer.kind.routed else None
    if experts is None:
        return feed_forward(decoder, layer, x)
    return mixture(decoder, layer, x, experts)


def _norm(decoder: Decoder, layer: Layer, name: str | None, x: Tensor) -> Tensor:
    return x if name is None else norm(decoder, f"{layer.place}.{name}", x)


def _added(decoder: Decoder, residual: Tensor, x: Tensor, name: str) -> Tensor:
    """``residual + x``; Granite's ``residual + x * residual_multiplier``."""
    if decoder.workload.model.multipliers:
        return ops.add(decoder.tape, residual, ops.unary(decoder.tape, x, "scaled block"), name)
    return ops.add(decoder.tape, residual, x, name)
