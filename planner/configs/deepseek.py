"""DeepSeek-V2: latent attention, routed and shared experts."""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Architecture, Config
from planner.configs.llama import attention_bias, decoder
from planner.configs.mixture import experts_of, no_router_loss
from planner.expert_shape import ExpertsSpec, LatentAttentionSpec
from planner.model import ModelSpec


def _deepseek_v2(config: Config) -> ModelSpec:
    no_router_loss(config)
    config.refuse("mlp_bias", "the parameter count knows no biases in the MLP")
    bias, latent = config.flag("attention_bias"), _latent(config)
    # transformers ignores num_key_value_heads but for a count of groups, which must be one.
    spec = decoder(
        config,
        "deepseek_v2",
        qkv_bias=bias,
        output_bias=bias,
        rotary="complex",
        experts=_experts(config),
        latent=latent,
    )
    return spec.model_copy(update={"head_dim": latent.qk_rope_head_dim})


def _latent(config: Config) -> LatentAttentionSpec:
    """Where the key is there, a ``q_lora_rank`` of ``null`` means that there is none."""
    queries: int | None = config.integer("q_lora_rank", 1536)
    if "q_lora_rank" in config.content and config.content["q_lora_rank"] is None:
        queries = None
    return LatentAttentionSpec(
        q_lora_rank=queries,
        kv_lora_rank=config.integer("kv_lora_rank", 512),
        qk_nope_head_dim=config.integer("qk_nope_head_dim", 128),
        qk_rope_head_dim=config.integer("qk_rope_head_dim", 64),
        v_head_dim=config.integer("v_head_dim", 128),
    )


def _experts(config: Config) -> ExpertsSpec:
    grouped = config.content.get("topk_method") == "group_limited_greedy"
    size = config.integer("moe_intermediate_size", 1407)
    return ExpertsSpec(
        num_experts=config.integer("n_routed_experts", 64),
        experts_per_token=config.integer("num_experts_per_tok"),
        intermediate_size=size,
        router="fp32-softmax",
        num_groups=config.integer("n_group") if grouped else 1,
        chosen_groups=config.integer("topk_group") if grouped else 1,
        shared_intermediate_size=size * config.integer("n_shared_experts", 2),
        first_dense_layers=config.count("first_k_dense_replace"),
    )


def _keys(spec: ModelSpec) -> dict[str, Any]:
    experts, latent = experts_of(spec), spec.latent
    assert latent is not None
    grouped = experts.num_groups > 1
    return {
        **attention_bias(spec),
        **latent.model_dump(),
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "first_k_dense_replace": experts.first_dense_layers,
        "topk_method": "group_limited_greedy" if grouped else "greedy",
        "n_group": experts.num_groups,
        "topk_group": experts.chosen_groups,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "deepseek_v2": Architecture(
        native_class="DeepseekV2ForCausalLM", read=_deepseek_v2, written=_keys
    ),
}
