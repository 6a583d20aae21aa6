"""Llama 4's text models: chunks of attention, and experts beside a shared one."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.mixture import experts_of, local_experts, no_router_loss
from planner.models.architectures.wrappers import of_wrapper
from planner.models.expert_shape import ExpertsSpec
from planner.models.model_spec import ModelSpec

CHUNKED, FULL = "chunked_attention", "full_attention"


def _llama4_text(config: Config) -> ModelSpec:
    """Return the shape; layers that do not turn queries and keys see everything, the others their
    own chunk, which needs a mask where a window of the same length does."""
    no_router_loss(config)
    config.refuse("router_jitter_noise", Phrase("noise on the input is not modelled"), ordinary=0.0)
    config.refuse("attention_dropout", Phrase("dropout in the model is not modelled"), ordinary=0.0)
    bias, size = config.flag("attention_bias"), config.integer("intermediate_size")
    interval = _unrotated_every(config)
    experts = ExpertsSpec(
        num_experts=config.integer("num_local_experts", 16),
        experts_per_token=config.integer("num_experts_per_tok", 1),
        intermediate_size=size,
        router="chosen-sigmoid",
        shared_intermediate_size=size,
        dense=True,
        every=_routed_every(config),
    )
    spec = decoder(
        config,
        "llama4_text",
        key_value_heads=8,
        head_dim=None if "head_dim" in config.content else 128,
        qkv_bias=bias,
        output_bias=bias,
        rotary="complex",
        qk_norm="unweighted-rotated" if config.flag("use_qk_norm", default=True) else None,
        tempered_attention=_is_set(config, "attn_temperature_tuning"),
        sliding_window=config.integer("attention_chunk_size", 8192),
        full_attention_every=interval,
        unrotated_every=interval,
        experts=experts,
    )
    return structs.replace(spec, intermediate_size=config.integer("intermediate_size_mlp", 16384))


def _is_set(config: Config, key: str) -> bool:
    """Return a flag that files may have as a number."""
    value = config.value(key, True)
    return value != 0 if isinstance(value, int) else config.flag(key, default=True)


def _unrotated_every(config: Config) -> int:
    """Return every how many layers one does not turn queries and keys."""
    count = config.integer("num_hidden_layers")
    every = config.integer("no_rope_layer_interval", 4)
    if config.content.get("no_rope_layers"):
        turns = config.listed("no_rope_layers", count) or []
        every = turns.index(0) + 1 if 0 in turns else count + 1
        if turns != [int(number % every != 0) for number in range(1, count + 1)]:
            raise config.no_formulas("no_rope_layers", Phrase("such an order of layers"))
    types = [CHUNKED if number % every else FULL for number in range(1, count + 1)]
    if config.listed("layer_types", count) not in (None, types):
        raise config.no_formulas("layer_types", Phrase("such an order of layers"))
    return every


def _routed_every(config: Config) -> int:
    """Return every how many layers one has experts."""
    count = config.integer("num_hidden_layers")
    every = config.integer("interleave_moe_layer_step", 1)
    routed = config.layer_numbers("moe_layers")
    if routed:
        every = routed[0] + 1
        if routed != tuple(range(every - 1, count, every)):
            raise config.no_formulas("moe_layers", Phrase("such an order of layers"))
    return every


def _llama4(config: Config) -> ModelSpec:
    return of_wrapper(config, _llama4_text)


def _keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        **attention_bias(spec),
        **hidden_act(spec),
        **local_experts(spec),
        "intermediate_size_mlp": spec.intermediate_size,
        "attention_chunk_size": spec.sliding_window,
        "no_rope_layer_interval": spec.unrotated_every,
        "interleave_moe_layer_step": experts_of(spec).every,
        "use_qk_norm": spec.qk_norm is not None,
        "attn_temperature_tuning": spec.tempered_attention,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama4": Architecture(native_class=None, read=_llama4),
    "llama4_text": Architecture(native_class="Llama4ForCausalLM", read=_llama4_text, written=_keys),
}
