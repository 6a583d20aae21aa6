"""DeepSeek-V2 and V3, GLM-4.5, dots.llm1 and Solar Open: routed and shared experts, latent
attention in DeepSeek's and in GLM-4.7-Flash."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs, to_builtins

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder
from planner.models.architectures.mixture import experts_of, no_router_loss
from planner.models.architectures.windows import layer_types, windows
from planner.models.expert_shape import ExpertsSpec, IndexerSpec, LatentAttentionSpec
from planner.models.model_spec import ModelSpec

DEEPSEEK_LATENT = LatentAttentionSpec(
    q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
)
GLM_5_LATENT = LatentAttentionSpec(
    q_lora_rank=2048, kv_lora_rank=512, qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256
)
LITE_LATENT = LatentAttentionSpec(
    q_lora_rank=768, kv_lora_rank=512, qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256
)
"""Latent attention that the classes of DeepSeek, GLM-5 and GLM-4.7-Flash assume."""


def _deepseek_v2(config: Config) -> ModelSpec:
    no_router_loss(config)
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    bias, latent = config.flag("attention_bias"), latent_attention(config)
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
    return structs.replace(spec, head_dim=latent.qk_rope_head_dim)


def latent_attention(
    config: Config, default: LatentAttentionSpec | None = None
) -> LatentAttentionSpec:
    """Return latent attention, with what the class assumes, DeepSeek's where that is None; a
    ``q_lora_rank`` of ``null`` means that queries are projected directly."""
    default = default or DEEPSEEK_LATENT
    queries: int | None = config.integer("q_lora_rank", default.q_lora_rank)
    if "q_lora_rank" in config.content and config.content["q_lora_rank"] is None:
        queries = None
    return LatentAttentionSpec(
        q_lora_rank=queries,
        kv_lora_rank=config.integer("kv_lora_rank", default.kv_lora_rank),
        qk_nope_head_dim=config.integer("qk_nope_head_dim", default.qk_nope_head_dim),
        qk_rope_head_dim=config.integer("qk_rope_head_dim", default.qk_rope_head_dim),
        v_head_dim=config.integer("v_head_dim", default.v_head_dim),
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


def latent_keys(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of latent attention."""
    keys: dict[str, Any] = to_builtins(spec.latent)
    del keys["indexer"]
    return keys


def _keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    grouped = experts.num_groups > 1
    return {
        **attention_bias(spec),
        **latent_keys(spec),
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "first_k_dense_replace": experts.first_dense_layers,
        "topk_method": "group_limited_greedy" if grouped else "greedy",
        "n_group": experts.num_groups,
        "topk_group": experts.chosen_groups,
    }


def _deepseek_v3(config: Config) -> ModelSpec:
    no_router_loss(config)
    bias, latent = config.flag("attention_bias"), latent_attention(config)
    config.refuse("rope_interleave", Phrase("halves that turn are not modelled"), ordinary=True)
    spec = decoder(
        config,
        "deepseek_v3",
        key_value_heads=128,
        qkv_bias=bias,
        output_bias=bias,
        rotary="pairs",
        experts=_corrected_experts(config, counts=(256, 8, 2048), groups=(8, 4), dense=3),
        latent=latent,
    )
    return structs.replace(spec, head_dim=latent.qk_rope_head_dim)


def _deepseek_v32(config: Config) -> ModelSpec:
    """Return the shape of DeepSeek-V3.2: V3 with an indexer."""
    return _with_indexer(config, "deepseek_v32", DEEPSEEK_LATENT, heads=64, groups=(8, 4))


def _glm_moe_dsa(config: Config) -> ModelSpec:
    """Return the shape of GLM-5, each layer of which must have an indexer of its own."""
    count = config.integer("num_hidden_layers")
    types = config.listed("indexer_types", count)
    if types not in (None, ["full"] * count):
        raise config.no_formulas("indexer_types", Phrase("layers that share an indexer"))
    config.refuse("index_topk_freq", Phrase("layers that share an indexer"), ordinary=1)
    if config.content.get("index_topk_pattern") is not None:
        raise config.no_formulas("index_topk_pattern", Phrase("layers that share an indexer"))
    return _with_indexer(config, "glm_moe_dsa", GLM_5_LATENT, heads=32, groups=(1, 1))


def _with_indexer(
    config: Config,
    model_type: str,
    assumed: LatentAttentionSpec,
    *,
    heads: int,
    groups: tuple[int, int],
) -> ModelSpec:
    no_router_loss(config)
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    bias = config.flag("attention_bias")
    indexer = IndexerSpec(
        heads=config.integer("index_n_heads", heads),
        head_dim=config.integer("index_head_dim", 128),
        chosen_keys=config.integer("index_topk", 2048),
        interleaved=model_type == "glm_moe_dsa",
    )
    latent = structs.replace(latent_attention(config, assumed), indexer=indexer)
    experts = _corrected_experts(config, counts=(256, 8, 2048), groups=groups, dense=3)
    first = config.count("first_k_dense_replace", 3)
    if config.content.get("mlp_layer_types") is not None:
        first = _first_dense(config)
    spec = decoder(
        config,
        model_type,
        key_value_heads=128 if model_type == "deepseek_v32" else 64,
        qkv_bias=bias,
        output_bias=bias,
        rotary="pairs",
        experts=structs.replace(experts, first_dense_layers=first),
        latent=latent,
    )
    return structs.replace(spec, head_dim=latent.qk_rope_head_dim)


def _glm4_moe(config: Config) -> ModelSpec:
    no_router_loss(config)
    return decoder(
        config,
        "glm4_moe",
        key_value_heads=8,
        rotary_fraction=0.5,
        qkv_bias=config.flag("attention_bias"),
        qk_norm="heads" if config.flag("use_qk_norm") else None,
        rotary="joined",
        experts=_corrected_experts(config, counts=(128, 8, 1408), groups=(1, 1), dense=1),
    )


def _glm4_moe_lite(config: Config) -> ModelSpec:
    """Return the shape of GLM-4.7-Flash: DeepSeek-V3's attention, and the experts of GLM-4.5."""
    no_router_loss(config)
    config.refuse("rope_interleave", Phrase("halves that turn are not modelled"), ordinary=True)
    bias = config.flag("attention_bias")
    latent = latent_attention(config, LITE_LATENT)
    experts = _corrected_experts(config, counts=(64, 4, 1536), groups=(1, 1), dense=1)
    spec = decoder(
        config,
        "glm4_moe_lite",
        key_value_heads=20,
        qkv_bias=bias,
        output_bias=bias,
        rotary="pairs",
        experts=structs.replace(experts, first_dense_layers=_first_dense(config)),
        latent=latent,
    )
    return structs.replace(spec, head_dim=latent.qk_rope_head_dim)


def _first_dense(config: Config) -> int:
    """Return the number of layers at the start without experts, which ``mlp_layer_types`` lists."""
    count = config.integer("num_hidden_layers")
    types = config.listed("mlp_layer_types", count)
    if types is None:
        return 1
    first = types.index("sparse") if "sparse" in types else count
    if types != ["dense"] * first + ["sparse"] * (count - first):
        raise config.no_formulas("mlp_layer_types", Phrase("such an order of layers"))
    return first


def _dots1(config: Config) -> ModelSpec:
    no_router_loss(config)
    bias = config.flag("attention_bias")
    first = config.integer("max_window_layers", 62, least=0)
    return decoder(
        config,
        "dots1",
        key_value_heads=32,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        experts=_corrected_experts(
            config, counts=(128, 6, 1408), groups=(1, 1), dense=0, normalized=False
        ),
        **windows(config, config.window(4096), full_first=first),
    )


def _solar_open(config: Config) -> ModelSpec:
    no_router_loss(config)
    return decoder(
        config,
        "solar_open",
        key_value_heads=8,
        head_dim=128,
        intermediate_size=config.integer("moe_intermediate_size", 1280),
        qkv_bias=config.flag("attention_bias"),
        experts=_corrected_experts(config, counts=(128, 8, 1280), groups=(1, 1), dense=0),
    )


def _corrected_experts(
    config: Config,
    *,
    counts: tuple[int, int, int],
    groups: tuple[int, int],
    dense: int,
    normalized: bool = True,
) -> ExpertsSpec:
    """Return the experts; the keywords are what the class assumes: experts, those per token, and
    their size; groups, and those that are chosen; layers at the start without experts; whether
    weights sum to one."""
    size = config.integer("moe_intermediate_size", counts[2])
    return ExpertsSpec(
        num_experts=config.integer("n_routed_experts", counts[0]),
        experts_per_token=config.integer("num_experts_per_tok", counts[1]),
        intermediate_size=size,
        router="sigmoid",
        normalized=config.flag("norm_topk_prob", default=normalized),
        num_groups=config.integer("n_group", groups[0]),
        chosen_groups=config.integer("topk_group", groups[1]),
        shared_intermediate_size=size * config.integer("n_shared_experts", 1),
        first_dense_layers=config.count("first_k_dense_replace", dense),
    )


def _corrected_keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    return {
        **attention_bias(spec),
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalized,
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "first_k_dense_replace": experts.first_dense_layers,
        "n_group": experts.num_groups,
        "topk_group": experts.chosen_groups,
    }


def _deepseek_v3_keys(spec: ModelSpec) -> dict[str, Any]:
    assert spec.latent is not None
    return {**_corrected_keys(spec), **latent_keys(spec)}


def _indexer_keys(spec: ModelSpec) -> dict[str, Any]:
    assert spec.latent is not None
    assert spec.latent.indexer is not None
    indexer = spec.latent.indexer
    return {
        **_deepseek_v3_keys(spec),
        "index_n_heads": indexer.heads,
        "index_head_dim": indexer.head_dim,
        "index_topk": indexer.chosen_keys,
    }


def _glm4_moe_lite_keys(spec: ModelSpec) -> dict[str, Any]:
    kinds = ["sparse" if kind.routed else "dense" for kind in spec.layers]
    return _deepseek_v3_keys(spec) | {"mlp_layer_types": kinds}


def _dots1_keys(spec: ModelSpec) -> dict[str, Any]:
    return _corrected_keys(spec) | layer_types(spec) | {"sliding_window": spec.sliding_window}


def _glm4_moe_keys(spec: ModelSpec) -> dict[str, Any]:
    return _corrected_keys(spec) | {"use_qk_norm": spec.qk_norm is not None}


ARCHITECTURES: Mapping[str, Architecture] = {
    "deepseek_v2": Architecture(
        native_class="DeepseekV2ForCausalLM", read=_deepseek_v2, written=_keys
    ),
    "deepseek_v3": Architecture(
        native_class="DeepseekV3ForCausalLM", read=_deepseek_v3, written=_deepseek_v3_keys
    ),
    "deepseek_v32": Architecture(
        native_class="DeepseekV32ForCausalLM", read=_deepseek_v32, written=_indexer_keys
    ),
    "glm_moe_dsa": Architecture(
        native_class="GlmMoeDsaForCausalLM", read=_glm_moe_dsa, written=_indexer_keys
    ),
    "dots1": Architecture(native_class="Dots1ForCausalLM", read=_dots1, written=_dots1_keys),
    "glm4_moe": Architecture(
        native_class="Glm4MoeForCausalLM", read=_glm4_moe, written=_glm4_moe_keys
    ),
    "glm4_moe_lite": Architecture(
        native_class="Glm4MoeLiteForCausalLM", read=_glm4_moe_lite, written=_glm4_moe_lite_keys
    ),
    "solar_open": Architecture(
        native_class="SolarOpenForCausalLM",
        read=_solar_open,
        written=_corrected_keys,
        derived=("intermediate_size",),
    ),
}
