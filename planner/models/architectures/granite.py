"""Granite 3 and HunYuan, dense and mixtures: Llamas with multipliers, and with norms on turned
queries and keys."""

from collections.abc import Mapping
from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.mixture import experts_of, local_experts, no_router_loss
from planner.models.expert_shape import ExpertsSpec
from planner.models.model_spec import ModelSpec


def _granite(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    bias = config.flag("attention_bias")
    return decoder(config, "granite", qkv_bias=bias, output_bias=bias, multipliers=True)


def _granitemoe(config: Config) -> ModelSpec:
    no_router_loss(config)
    bias = config.flag("attention_bias")
    experts = ExpertsSpec(
        num_experts=config.integer("num_local_experts", 8),
        experts_per_token=config.integer("num_experts_per_tok", 2),
        intermediate_size=config.integer("intermediate_size"),
        router="chosen-softmax-fp32",
    )
    return decoder(
        config,
        "granitemoe",
        qkv_bias=bias,
        output_bias=bias,
        multipliers=True,
        experts=experts,
    )


def _hunyuan(config: Config) -> ModelSpec:
    bias = config.flag("attention_bias")
    return decoder(
        config, "hunyuan_v1_dense", qkv_bias=bias, output_bias=bias, qk_norm="heads-rotated"
    )


def _hunyuan_moe(config: Config) -> ModelSpec:
    """Return the shape; every layer has one shared expert, as wide as a routed one."""
    no_router_loss(config)
    bias, size = config.flag("attention_bias"), config.integer("intermediate_size")
    experts = ExpertsSpec(
        num_experts=_of_all_layers(config, "num_experts"),
        experts_per_token=_of_all_layers(config, "moe_topk"),
        intermediate_size=size,
        router="softmax",
        normalized=True,
        shared_intermediate_size=size,
        shared_first=True,
        router_matrix="wg",
    )
    return decoder(
        config,
        "hunyuan_v1_moe",
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads-rotated",
        experts=experts,
    )


def _of_all_layers(config: Config, key: str) -> int:
    """Return a whole number that files may have once for every layer."""
    value = config.value(key, 1)
    if isinstance(value, list) and value and value == value[:1] * len(value):
        return Config({key: value[0]}, config.path).integer(key)
    if isinstance(value, list):
        raise config.no_formulas(key, Phrase("layers that differ in it"))
    return config.integer(key, 1)


def _keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | hidden_act(spec)


def _hunyuan_moe_keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    return _keys(spec) | {
        "intermediate_size": experts.intermediate_size,
        "num_experts": experts.num_experts,
        "moe_topk": experts.experts_per_token,
    }


def _granitemoe_keys(spec: ModelSpec) -> dict[str, Any]:
    return _keys(spec) | local_experts(spec)


ARCHITECTURES: Mapping[str, Architecture] = {
    "granite": Architecture(native_class="GraniteForCausalLM", read=_granite, written=_keys),
    "granitemoe": Architecture(
        native_class="GraniteMoeForCausalLM", read=_granitemoe, written=_granitemoe_keys
    ),
    "hunyuan_v1_dense": Architecture(
        native_class="HunYuanDenseV1ForCausalLM", read=_hunyuan, written=_keys
    ),
    "hunyuan_v1_moe": Architecture(
        native_class="HunYuanMoEV1ForCausalLM", read=_hunyuan_moe, written=_hunyuan_moe_keys
    ),
}
