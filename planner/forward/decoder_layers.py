"""Decoder layers, as transformers 5.23 writes them, on a tape of sizes."""

from collections.abc import Callable, Mapping

from msgspec import Struct

from planner.base.units import FP32_BYTES
from planner.forward.bloom import bloom_layer
from planner.forward.decoder import Decoder, Layer
from planner.forward.falcon import falcon_layer
from planner.forward.feed_forward import activate, feed_forward, scaled_mlp
from planner.forward.gemma4 import gemma4_layer
from planner.forward.latent_attention import latent_attention
from planner.forward.mixtures.experts import mixture
from planner.forward.norms import norm
from planner.forward.recurrent.gated_delta import gated_delta_net
from planner.forward.recurrent.mamba2 import mamba2_mixer
from planner.forward.recurrent.short_convolution import short_convolution
from planner.forward.rotary import Tables
from planner.forward.self_attention import self_attention
from planner.models.model_spec import Norms, Residual
from planner.tape import operators as ops
from planner.tape.tensors import Tensor


class _NormNames(Struct, frozen=True):
    """Names of a layer's norms by what they stand before or after; None where there is no norm."""

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
"""Names of norms in Llama, OLMo-2 and Gemma 2. GLM-4-0414 has other names for those around."""


def decoder_layer(
    decoder: Decoder,
    layer: Layer,
    x: Tensor,
    tables: Tables | None,
    gate: Tensor | None = None,
) -> Tensor:
    """Return the output of a layer of the model's architecture; ``gate`` is its part of the
    per-layer inputs, where the model has some."""
    model = decoder.workload.model
    if model.altup is not None:
        from planner.forward.gemma3n import gemma3n_layer  # only Gemma 3n needs it

        assert tables is not None
        assert gate is not None
        return gemma3n_layer(decoder, layer, x, tables, gate, model.altup)
    if model.full_heads is not None:
        assert tables is not None
        return gemma4_layer(decoder, layer, x, tables, gate)
    run = OF_THEIR_OWN.get(model.model_type, COMMON[model.residual])
    return run(decoder, layer, x, tables)


def _sequential(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror LlamaDecoderLayer.forward, and those of Gemma 2, Glm4, Olmo2 and Granite."""
    names = NORM_NAMES[decoder.workload.model.norms]
    residual = x
    x = _norm(decoder, layer, names.before_attention, x)
    x, _weights = _attention(decoder, layer, x, tables)
    x = decoder.residual_dropout(x)
    x = _norm(decoder, layer, names.after_attention, x)
    x = _added(decoder, residual, x, "residual after attention")
    residual = x
    x = _norm(decoder, layer, names.before_mlp, x)
    x = decoder.residual_dropout(_mlp(decoder, layer, x))
    x = _norm(decoder, layer, names.after_mlp, x)
    return _added(decoder, residual, x, "residual after the MLP")


def _opt(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror OPTDecoderLayer.forward, whose MLP is inline: each tensor ends as the next is
    there."""
    model, names = decoder.workload.model, NORM_NAMES[decoder.workload.model.norms]
    residual = x
    x = _norm(decoder, layer, names.before_attention, x)
    x, _weights = self_attention(decoder, layer, x, tables)
    x = decoder.residual_dropout(x)
    x = ops.add(decoder.tape, residual, x, "residual after attention")
    residual = x
    x = _norm(decoder, layer, names.before_mlp, x)
    x = decoder.linear(layer, "up_proj", x)
    x = activate(decoder.tape, model.activation, x, pow_width=decoder.pow_width)
    x = decoder.linear(layer, "down_proj", x)
    x = decoder.residual_dropout(x)
    return ops.add(decoder.tape, residual, x, "residual after the MLP")


def _attention(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None
) -> tuple[Tensor, Tensor | None]:
    """Return the output of attention or of what stands in its place."""
    model = decoder.workload.model
    latent = model.latent
    if layer.kind.recurrent and model.mamba is not None:
        return mamba2_mixer(decoder, layer, x, model.mamba), None
    if layer.kind.recurrent and model.mamba_1 is not None:
        from planner.forward.recurrent.mamba import mamba_mixer  # only Jamba needs it

        return mamba_mixer(decoder, layer, x, model.mamba_1), None
    if layer.kind.recurrent and model.convolution is not None:
        return short_convolution(decoder, layer, x, model.convolution), None
    if layer.kind.recurrent and model.delta is not None:
        return gated_delta_net(decoder, layer, x, model.delta), None
    if latent is None or tables is None:
        return self_attention(decoder, layer, x, tables)
    return latent_attention(decoder, layer, x, tables, latent)


def _mlp(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    experts = decoder.workload.model.experts if layer.kind.routed else None
    if experts is None:
        return feed_forward(decoder, layer, x)
    own = decoder.own_mixture(layer, x, experts)
    return mixture(decoder, layer, x, experts) if own is None else own


def _norm(decoder: Decoder, layer: Layer, name: str | None, x: Tensor) -> Tensor:
    return x if name is None else norm(decoder, f"{layer.place}.{name}", x)


def _added(decoder: Decoder, residual: Tensor, x: Tensor, name: str) -> Tensor:
    """Return ``residual + x``; Granite and MiniCPM3 multiply ``x`` by a number before."""
    if decoder.workload.model.multipliers or decoder.workload.model.scaled_blocks:
        return ops.add(decoder.tape, residual, ops.unary(decoder.tape, x, "scaled block"), name)
    return ops.add(decoder.tape, residual, x, name)


def _parallel(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror PhiDecoderLayer.forward."""
    tape, residual = decoder.tape, x
    x = norm(decoder, f"{layer.place}.input_layernorm", x)
    attended, _weights = self_attention(decoder, layer, x, tables)
    attended = decoder.residual_dropout(attended)
    fed = decoder.residual_dropout(feed_forward(decoder, layer, x))
    both = ops.add(tape, attended, fed, "attention + MLP")
    return ops.add(tape, both, residual, "residual after the layer")


def _parallel_two_norms(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror GPTNeoXLayer.forward."""
    place, tape = layer.place, decoder.tape
    attended, _weights = self_attention(
        decoder, layer, norm(decoder, f"{place}.input_layernorm", x), tables
    )
    attended = decoder.residual_dropout(attended)
    fed = feed_forward(decoder, layer, norm(decoder, f"{place}.post_attention_layernorm", x))
    fed = decoder.residual_dropout(fed)
    both = ops.add(tape, fed, attended, "attention + MLP")
    return ops.add(tape, both, x, "residual after the layer")


def _stablelm(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror StableLmDecoderLayer.forward and CohereDecoderLayer.forward, whose variables hold what
    attention read and wrote."""
    place, tape, residual = layer.place, decoder.tape, x
    x = norm(decoder, f"{place}.input_layernorm", x)
    attended, _weights = self_attention(decoder, layer, x, tables)
    if decoder.workload.model.residual == "parallel":
        fed = feed_forward(decoder, layer, x)
        residual = ops.add(tape, residual, attended, "residual after attention")
        return ops.add(tape, residual, fed, "residual after the MLP")
    residual = ops.add(tape, residual, attended, "residual after attention")
    second = f"{place}.post_attention_layernorm"
    fed = feed_forward(decoder, layer, norm(decoder, second, residual))
    return ops.add(tape, residual, fed, "residual after the MLP")


def _gpt2(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror GPT2Block.forward, whose variables hold what attention wrote."""
    place, tape, residual = layer.place, decoder.tape, x
    x = norm(decoder, f"{place}.input_layernorm", x)
    attended, _weights = self_attention(decoder, layer, x, tables)
    attended = decoder.residual_dropout(attended)
    x = ops.add(tape, attended, residual, "residual after attention")
    residual = x
    x = norm(decoder, f"{place}.post_attention_layernorm", x)
    fed = decoder.residual_dropout(feed_forward(decoder, layer, x))
    return ops.add(tape, residual, fed, "residual after the MLP")


def _bloom(decoder: Decoder, layer: Layer, x: Tensor, _tables: Tables | None) -> Tensor:
    return bloom_layer(decoder, layer, x)


def _falcon(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    assert tables is not None
    return falcon_layer(decoder, layer, x, tables)


def _single(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror NemotronHBlock.forward, which has one of attention, a mixer, an MLP and experts, and
    Mamba2Block.forward."""
    tape, model, name = decoder.tape, decoder.workload.model, f"{layer.place}.norm"
    residual = x
    width = decoder.parameter(name, model.hidden_size).width
    x = norm(decoder, name, ops.cast(tape, x, width, "norm: input in the weight's dtype"))
    if model.residual_in_fp32:
        residual = ops.cast(tape, residual, FP32_BYTES, "residual in fp32")
    if layer.kind.feeds:
        x = _mlp(decoder, layer, x)
    else:
        x, _weights = _attention(decoder, layer, x, tables)
    return ops.add(tape, residual, x, "residual after the layer")


def _falcon_h1(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables | None) -> Tensor:
    """Mirror FalconH1DecoderLayer.forward, whose variables hold what its mixer and its attention
    wrote."""
    place, tape, residual, mamba = layer.place, decoder.tape, x, decoder.workload.model.mamba
    assert mamba is not None
    x = norm(decoder, f"{place}.input_layernorm", x)
    mixed = ops.unary(tape, mamba2_mixer(decoder, layer, x, mamba), "output of the mixer, scaled")
    attended, _weights = self_attention(
        decoder, layer, ops.unary(tape, x, "input of attention, scaled"), tables
    )
    attended = ops.unary(tape, attended, "output of attention, scaled")
    x = ops.add(tape, mixed, attended, "mixer + attention")
    x = ops.add(tape, residual, x, "residual after attention")
    residual = x
    x = norm(decoder, f"{place}.pre_ff_layernorm", x)
    x = scaled_mlp(decoder, layer, x)
    return ops.add(tape, residual, x, "residual after the MLP")


RunLayer = Callable[[Decoder, Layer, Tensor, Tables | None], Tensor]
"""A layer's forward pass."""
COMMON: Mapping[Residual, RunLayer] = {
    "sequential": _sequential,
    "parallel": _parallel,
    "parallel-two-norms": _parallel_two_norms,
}
"""Forward passes by how attention and MLP are joined."""
OF_THEIR_OWN: Mapping[str, RunLayer] = {
    "bloom": _bloom,
    "cohere": _stablelm,
    "cohere2": _stablelm,
    "falcon": _falcon,
    "falcon_h1": _falcon_h1,
    "gpt2": _gpt2,
    "mamba2": _single,
    "nemotron_h": _single,
    "opt": _opt,
    "stablelm": _stablelm,
}
"""Forward passes of architectures whose variables hold other tensors than the common ones."""
