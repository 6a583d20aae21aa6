"""Qwen3-Next and Qwen3.5's text models: gated delta nets in most layers, gated attention in the
others."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.mixture import (
    experts_of,
    no_router_loss,
    qwen_experts,
    qwen_keys,
)
from planner.models.architectures.windows import FULL
from planner.models.architectures.wrappers import of_wrapper
from planner.models.expert_shape import ExpertsSpec
from planner.models.model_spec import ModelSpec
from planner.models.recurrent_shape import GatedDeltaSpec

RECURRENT = "linear_attention"


def _qwen3_5_text(
    config: Config,
    model_type: str = "qwen3_5_text",
    *,
    key_value_heads: int = 4,
    intermediate_size: int | None = None,
    experts: ExpertsSpec | None = None,
) -> ModelSpec:
    bias = config.flag("attention_bias")
    return decoder(
        config,
        model_type,
        key_value_heads=key_value_heads,
        intermediate_size=intermediate_size,
        experts=experts,
        head_dim=256,
        rotary_fraction=0.25,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        norm="rms-plus-one",
        rotary="joined",
        gated_attention=True,
        delta=_delta(config),
    )


def _qwen3_5_moe_text(config: Config) -> ModelSpec:
    """Return the shape of a mixture, every layer of which has routed experts and a shared one."""
    no_router_loss(config)
    size = config.integer("moe_intermediate_size", 512)
    experts = ExpertsSpec(
        num_experts=config.integer("num_experts", 256),
        experts_per_token=config.integer("num_experts_per_tok", 8),
        intermediate_size=size,
        router="softmax",
        normalized=True,
        shared_intermediate_size=config.integer("shared_expert_intermediate_size", 512),
        shared_gate=True,
    )
    return _qwen3_5_text(
        config,
        "qwen3_5_moe_text",
        key_value_heads=2,
        intermediate_size=size,
        experts=experts,
    )


def _qwen3_next(config: Config) -> ModelSpec:
    experts = qwen_experts(
        config,
        counts=(512, 10, 512),
        shared_intermediate_size=config.integer("shared_expert_intermediate_size", 512),
        shared_gate=True,
        normalized=True,
    )
    spec = _qwen3_5_text(config, "qwen3_next", key_value_heads=2, experts=experts)
    assert spec.delta is not None
    return structs.replace(spec, delta=structs.replace(spec.delta, joined=True))


def _qwen3_next_keys(spec: ModelSpec) -> dict[str, Any]:
    shared = experts_of(spec).shared_intermediate_size
    return _keys(spec) | qwen_keys(spec) | {"shared_expert_intermediate_size": shared}


def _qwen3_5(config: Config) -> ModelSpec:
    return of_wrapper(config, _qwen3_5_text)


def _qwen3_5_moe(config: Config) -> ModelSpec:
    return of_wrapper(config, _qwen3_5_moe_text)


def _delta(config: Config) -> GatedDeltaSpec:
    return GatedDeltaSpec(
        key_heads=config.integer("linear_num_key_heads", 16),
        value_heads=config.integer("linear_num_value_heads", 32),
        key_head_dim=config.integer("linear_key_head_dim", 128),
        value_head_dim=config.integer("linear_value_head_dim", 128),
        kernel_size=config.integer("linear_conv_kernel_dim", 4),
        attention_every=_attention_every(config),
    )


def _attention_every(config: Config) -> int:
    """Return every how many layers one attends."""
    count = config.integer("num_hidden_layers")
    types = config.listed("layer_types", count)
    if types is None:
        return config.integer("full_attention_interval", 4)
    every = types.index(FULL) + 1 if FULL in types else count + 1
    if types != [RECURRENT if number % every else FULL for number in range(1, count + 1)]:
        raise config.no_formulas("layer_types", Phrase("such an order of layers"))
    return every


def _keys(spec: ModelSpec) -> dict[str, Any]:
    delta = spec.delta
    assert delta is not None
    return {
        **attention_bias(spec),
        **hidden_act(spec),
        "layer_types": [RECURRENT if kind.recurrent else FULL for kind in spec.layers],
        "linear_num_key_heads": delta.key_heads,
        "linear_num_value_heads": delta.value_heads,
        "linear_key_head_dim": delta.key_head_dim,
        "linear_value_head_dim": delta.value_head_dim,
        "linear_conv_kernel_dim": delta.kernel_size,
    }


def _moe_keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    return _keys(spec) | {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "shared_expert_intermediate_size": experts.shared_intermediate_size,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen3_5": Architecture(native_class=None, read=_qwen3_5),
    "qwen3_5_moe": Architecture(native_class=None, read=_qwen3_5_moe),
    "qwen3_5_moe_text": Architecture(
        native_class="Qwen3_5MoeForCausalLM",
        read=_qwen3_5_moe_text,
        written=_moe_keys,
        derived=("intermediate_size",),
    ),
    "qwen3_next": Architecture(
        native_class="Qwen3NextForCausalLM", read=_qwen3_next, written=_qwen3_next_keys
    ),
    "qwen3_5_text": Architecture(
        native_class="Qwen3_5ForCausalLM", read=_qwen3_5_text, written=_keys
    ),
}
