"""Mixtures of experts with ordinary attention: Mixtral, Qwen's, OLMoE, gpt-oss, MiniMax-M2 and
Phi-3.5-MoE."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.windows import layer_types, windows
from planner.models.expert_shape import ExpertsSpec
from planner.models.model_spec import ModelSpec


def experts_of(spec: ModelSpec) -> ExpertsSpec:
    """Return the experts of a shape, which must have some."""
    assert spec.experts is not None
    return spec.experts


def local_experts(spec: ModelSpec) -> dict[str, Any]:
    """Return Mixtral's keys of experts, which other architectures have, too."""
    experts = experts_of(spec)
    return {
        "intermediate_size": experts.intermediate_size,
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
    }


def no_router_loss(config: Config) -> None:
    """Raise NoFormulasError where training adds the router's own loss."""
    config.refuse("output_router_logits", Phrase("the load-balancing loss is not modelled"))


def _mixtral(config: Config) -> ModelSpec:
    no_router_loss(config)
    config.refuse("router_jitter_noise", Phrase("noise on the input is not modelled"), ordinary=0.0)
    experts = ExpertsSpec(
        num_experts=config.integer("num_local_experts", 8),
        experts_per_token=config.integer("num_experts_per_tok", 2),
        intermediate_size=config.integer("intermediate_size"),
        router="softmax-fp32",
        normalized=True,
    )
    window = config.window(None)
    return decoder(config, "mixtral", key_value_heads=8, sliding_window=window, experts=experts)


def _mixtral_keys(spec: ModelSpec) -> dict[str, Any]:
    return {"sliding_window": spec.sliding_window} | local_experts(spec)


def _qwen2_moe(config: Config) -> ModelSpec:
    config.refuse("use_sliding_window", Phrase("its windows are not modelled"))
    experts = qwen_experts(
        config,
        counts=(60, 4, 1408),
        shared_intermediate_size=config.integer("shared_expert_intermediate_size", 5632),
        shared_gate=True,
    )
    return decoder(
        config,
        "qwen2_moe",
        key_value_heads=16,
        qkv_bias=config.flag("qkv_bias", default=True),
        experts=experts,
    )


def _qwen3_moe(config: Config) -> ModelSpec:
    config.refuse("use_sliding_window", Phrase("its windows are not modelled"))
    bias = config.flag("attention_bias")
    return decoder(
        config,
        "qwen3_moe",
        key_value_heads=4,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        experts=qwen_experts(config, counts=(128, 8, 768)),
    )


def qwen_experts(
    config: Config,
    *,
    counts: tuple[int, int, int],
    shared_intermediate_size: int = 0,
    shared_gate: bool = False,
    normalized: bool = False,
) -> ExpertsSpec:
    """Return the experts; ``counts`` are the class's number of experts, of those per token, and
    their size, and ``normalized`` is what it assumes."""
    no_router_loss(config)
    return ExpertsSpec(
        num_experts=config.either("num_experts", "num_local_experts", counts[0]),
        experts_per_token=config.integer("num_experts_per_tok", counts[1]),
        intermediate_size=config.integer("moe_intermediate_size", counts[2]),
        router="softmax",
        normalized=config.flag("norm_topk_prob", default=normalized),
        shared_intermediate_size=shared_intermediate_size,
        shared_gate=shared_gate,
        every=config.integer("decoder_sparse_step", 1),
        dense_layers=config.layer_numbers("mlp_only_layers"),
    )


def qwen_keys(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of Qwen's experts."""
    experts = experts_of(spec)
    return {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalized,
        "decoder_sparse_step": experts.every,
        "mlp_only_layers": list(experts.dense_layers),
    }


def _qwen2_moe_keys(spec: ModelSpec) -> dict[str, Any]:
    shared = experts_of(spec).shared_intermediate_size
    return qwen_keys(spec) | {
        "qkv_bias": spec.qkv_bias,
        "shared_expert_intermediate_size": shared,
    }


def _qwen3_moe_keys(spec: ModelSpec) -> dict[str, Any]:
    return qwen_keys(spec) | attention_bias(spec)


def _olmoe(config: Config) -> ModelSpec:
    no_router_loss(config)
    if config.content.get("clip_qkv") is not None:
        raise config.error(
            Phrase("clip_qkv: queries, keys and values that are clipped cannot be planned")
        )
    bias = config.flag("attention_bias")
    experts = ExpertsSpec(
        num_experts=config.integer("num_experts", 64),
        experts_per_token=config.integer("num_experts_per_tok", 8),
        intermediate_size=config.integer("intermediate_size"),
        router="softmax",
        normalized=config.flag("norm_topk_prob"),
    )
    return decoder(
        config, "olmoe", qkv_bias=bias, output_bias=bias, qk_norm="whole", experts=experts
    )


def _olmoe_keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    return attention_bias(spec) | {
        "intermediate_size": experts.intermediate_size,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "norm_topk_prob": experts.normalized,
    }


def _gpt_oss(config: Config) -> ModelSpec:
    no_router_loss(config)
    bias = config.flag("attention_bias", default=True)
    experts = ExpertsSpec(
        num_experts=config.integer("num_local_experts", 128),
        experts_per_token=config.integer("num_experts_per_tok", 4),
        intermediate_size=config.integer("intermediate_size"),
        router="chosen-softmax",
        biased=True,
    )
    return decoder(
        config,
        "gpt_oss",
        key_value_heads=8,
        head_dim=64,
        qkv_bias=bias,
        output_bias=bias,
        norm="rms-fp32",
        rotary="split",
        attention_sinks=True,
        experts=experts,
        **windows(config, config.window(128), full_every=2),
    )


def _gpt_oss_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        **attention_bias(spec),
        **layer_types(spec),
        "sliding_window": spec.sliding_window,
        **local_experts(spec),
    }


def _minimax_m2(config: Config) -> ModelSpec:
    """Return the shape; files have the dimensions that rotate instead of their share."""
    no_router_loss(config)
    config.refuse("router_jitter_noise", Phrase("noise on the input is not modelled"), ordinary=0.0)
    head_dim = config.integer("head_dim", 128)
    experts = ExpertsSpec(
        num_experts=config.integer("num_local_experts", 256),
        experts_per_token=config.integer("num_experts_per_tok", 8),
        intermediate_size=config.integer("intermediate_size"),
        router="sigmoid-fp32",
        normalized=True,
    )
    return decoder(
        config,
        "minimax_m2",
        key_value_heads=8,
        head_dim=head_dim,
        rotary_fraction=config.integer("rotary_dim", head_dim) / head_dim,
        qk_norm="whole",
        rotary="joined",
        experts=experts,
    )


def _phimoe(config: Config) -> ModelSpec:
    no_router_loss(config)
    config.refuse("attention_dropout", Phrase("dropout in the model is not modelled"), ordinary=0.0)
    config.refuse("num_experts_per_tok", Phrase("its router draws two experts"), ordinary=2)
    bias = config.flag("attention_bias")
    experts = ExpertsSpec(
        num_experts=config.integer("num_local_experts", 16),
        experts_per_token=2,
        intermediate_size=config.integer("intermediate_size"),
        router="sparse-mixer",
        jitter=config.fraction("input_jitter_noise", 0.0) > 0,
    )
    spec = decoder(
        config,
        "phimoe",
        key_value_heads=8,
        qkv_bias=bias,
        output_bias=bias,
        norm="layer",
        sliding_window=config.window(None),
        experts=experts,
    )
    return structs.replace(spec, norm_bias=True, head_bias=config.flag("lm_head_bias"))


def _phimoe_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        **attention_bias(spec),
        **hidden_act(spec),
        **local_experts(spec),
        "sliding_window": spec.sliding_window,
        "lm_head_bias": spec.head_bias,
        "input_jitter_noise": 0.01 if experts_of(spec).jitter else 0.0,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt_oss": Architecture(native_class="GptOssForCausalLM", read=_gpt_oss, written=_gpt_oss_keys),
    "minimax_m2": Architecture(
        native_class="MiniMaxM2ForCausalLM", read=_minimax_m2, written=local_experts
    ),
    "mixtral": Architecture(
        native_class="MixtralForCausalLM", read=_mixtral, written=_mixtral_keys
    ),
    "olmoe": Architecture(native_class="OlmoeForCausalLM", read=_olmoe, written=_olmoe_keys),
    "phimoe": Architecture(native_class="PhimoeForCausalLM", read=_phimoe, written=_phimoe_keys),
    "qwen2_moe": Architecture(
        native_class="Qwen2MoeForCausalLM", read=_qwen2_moe, written=_qwen2_moe_keys
    ),
    "qwen3_moe": Architecture(
        native_class="Qwen3MoeForCausalLM", read=_qwen3_moe, written=_qwen3_moe_keys
    ),
}
