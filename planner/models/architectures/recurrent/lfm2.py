"""LFM2: gated short convolutions in most layers, attention in the others, dense or with experts."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import decoder
from planner.models.architectures.mixture import experts_of, no_router_loss
from planner.models.architectures.windows import FULL
from planner.models.expert_shape import ExpertsSpec
from planner.models.layer_kinds import ATTENDING, RECURRENT, shortest_period
from planner.models.model_spec import ModelSpec
from planner.models.recurrent_shape import ShortConvolutionSpec

CONVOLUTION = "conv"


def _letters(config: Config) -> str:
    """Return a letter for each layer: convolutions where no layer is listed as attending, which
    means that all attend."""
    count = config.integer("num_hidden_layers")
    types = config.listed("layer_types", count)
    if types is None:
        attending = config.layer_numbers("full_attn_idxs")
        if "full_attn_idxs" not in config.content:
            attending = tuple(range(count))
        types = [FULL if number in attending else CONVOLUTION for number in range(count)]
    if not set(types) <= {FULL, CONVOLUTION}:
        raise config.no_formulas("layer_types", Phrase("such layers"))
    letters = (ATTENDING if each == FULL else RECURRENT for each in types)
    return shortest_period("".join(letters))


def _shape(config: Config, model_type: str, intermediate_size: int, letters: str) -> ModelSpec:
    spec = decoder(
        config,
        model_type,
        key_value_heads=8,
        intermediate_size=intermediate_size,
        tied_embeddings=True,
        activation="silu",
        qk_norm="heads",
        convolution=ShortConvolutionSpec(
            channels=config.integer("hidden_size"),
            kernel_size=config.integer("conv_L_cache", 3),
            bias=config.flag("conv_bias"),
        ),
        layer_letters=letters,
    )
    return structs.replace(spec, tied_embeddings=config.flag("tie_embedding", spec.tied_embeddings))


def _lfm2(config: Config) -> ModelSpec:
    stated = config.either("block_ff_dim", "intermediate_size", 12288)
    spec = _shape(config, "lfm2", stated, _letters(config))
    return structs.replace(spec, intermediate_size=_adjusted(config, stated))


def _adjusted(config: Config, stated: int) -> int:
    """Mirror Lfm2MLP, which has two thirds of the stated width, rounded up."""
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return stated
    width = int(2 * stated / 3)
    factor = config.number("block_ffn_dim_multiplier", 1.0)
    if factor is None:
        return width
    multiple = config.integer("block_multiple_of", 256)
    return multiple * -(-int(factor * width) // multiple)


def _lfm2_moe(config: Config) -> ModelSpec:
    no_router_loss(config)
    config.refuse("use_expert_bias", Phrase("such a router is not modelled"), ordinary=True)
    experts = ExpertsSpec(
        num_experts=config.integer("num_experts", 32),
        experts_per_token=config.integer("num_experts_per_tok", 4),
        intermediate_size=config.integer("moe_intermediate_size", 1792),
        router="sigmoid-16-bit",
        normalized=config.flag("norm_topk_prob", default=True),
        first_dense_layers=config.integer("num_dense_layers", 2, least=0),
    )
    spec = _shape(config, "lfm2_moe", 7168, _letters(config))
    return structs.replace(spec, experts=experts)


def _keys(spec: ModelSpec) -> dict[str, Any]:
    convolution = spec.convolution
    assert convolution is not None
    return {
        "layer_types": [CONVOLUTION if kind.recurrent else FULL for kind in spec.layers],
        "conv_L_cache": convolution.kernel_size,
        "conv_bias": convolution.bias,
    }


def _lfm2_keys(spec: ModelSpec) -> dict[str, Any]:
    return _keys(spec) | {"block_auto_adjust_ff_dim": False}


def _lfm2_moe_keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    return _keys(spec) | {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalized,
        "num_dense_layers": experts.first_dense_layers,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "lfm2": Architecture(native_class="Lfm2ForCausalLM", read=_lfm2, written=_lfm2_keys),
    "lfm2_moe": Architecture(
        native_class="Lfm2MoeForCausalLM", read=_lfm2_moe, written=_lfm2_moe_keys
    ),
}
