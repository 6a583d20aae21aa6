"""transformers' keys of routed experts and latent attention, from a shape."""

from typing import Any

from planner.expert_shape import ExpertsSpec, LatentAttentionSpec
from planner.model import ModelSpec

EXPERT_COUNT_KEYS = {
    "deepseek_v2": "n_routed_experts",
    "gpt_oss": "num_local_experts",
    "mixtral": "num_local_experts",
    "olmoe": "num_experts",
    "qwen2_moe": "num_experts",
    "qwen3_moe": "num_experts",
}
"""What each architecture calls the number of a layer's routed experts."""
ROUTED_EVERYWHERE = ("gpt_oss", "mixtral", "olmoe")
"""No layer has an ordinary MLP, so that ``intermediate_size`` is an expert's."""


def experts_to_config(spec: ModelSpec) -> dict[str, Any]:
    """The keys beyond those that every architecture has."""
    config: dict[str, Any] = {}
    if spec.experts is not None:
        config |= _mixture(spec.model_type, spec.experts)
    if spec.latent is not None:
        config |= _latent(spec.latent)
    return config


def _mixture(model_type: str, experts: ExpertsSpec) -> dict[str, Any]:
    config: dict[str, Any] = {
        EXPERT_COUNT_KEYS[model_type]: experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
    }
    if model_type in ROUTED_EVERYWHERE:
        config["intermediate_size"] = experts.intermediate_size
    else:
        config["moe_intermediate_size"] = experts.intermediate_size
    if model_type in ("olmoe", "qwen2_moe", "qwen3_moe"):
        config["norm_topk_prob"] = experts.normalized
    if model_type in ("qwen2_moe", "qwen3_moe"):
        config["decoder_sparse_step"] = experts.every
        config["mlp_only_layers"] = list(experts.dense_layers)
    if model_type == "qwen2_moe":
        config["shared_expert_intermediate_size"] = experts.shared_intermediate_size
    if model_type == "deepseek_v2":
        config |= _deepseek(experts)
    return config


def _deepseek(experts: ExpertsSpec) -> dict[str, Any]:
    grouped = experts.num_groups > 1
    return {
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "first_k_dense_replace": experts.first_dense_layers,
        "n_group": experts.num_groups,
        "topk_group": experts.chosen_groups,
        "topk_method": "group_limited_greedy" if grouped else "greedy",
    }


def _latent(latent: LatentAttentionSpec) -> dict[str, Any]:
    return latent.model_dump()
