"""Those that turn neighbouring dimensions in fp32: Cohere's Command and ERNIE 4.5."""

from collections.abc import Mapping
from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.mixture import experts_of, no_router_loss
from planner.models.architectures.windows import Windows, layer_types, windows
from planner.models.expert_shape import ExpertsSpec
from planner.models.model_spec import ModelSpec

EVERY = 4
"""One layer of Cohere 2 in so many sees everything, where the file has no list."""


def _cohere(
    config: Config,
    model_type: str = "cohere",
    *,
    unrotated_every: int | None = None,
    hybrid: Windows | None = None,
) -> ModelSpec:
    config.refuse("use_qk_norm", Phrase("norms of queries and keys are not modelled"))
    bias = config.flag("attention_bias")
    return decoder(
        config,
        model_type,
        tied_embeddings=True,
        unrotated_every=unrotated_every,
        **(hybrid or {}),
        qkv_bias=bias,
        output_bias=bias,
        norm="layer-fp32",
        residual="parallel",
        rotary="neighbours-fp32",
        scaled_logits=True,
    )


def _cohere2(config: Config) -> ModelSpec:
    """Return the shape; layers without a window do not turn queries and keys."""
    every = config.integer("sliding_window_pattern", EVERY)
    hybrid = windows(config, config.window(4096), full_every=every)
    if "full_attention_every" not in hybrid:
        raise config.no_formulas(
            "layer_types", Phrase("layers with and without a window must alternate")
        )
    unrotated_every = hybrid["full_attention_every"]
    return _cohere(config, "cohere2", unrotated_every=unrotated_every, hybrid=hybrid)


def _cohere_keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | hidden_act(spec)


def _cohere2_keys(spec: ModelSpec) -> dict[str, Any]:
    return _cohere_keys(spec) | layer_types(spec) | {"sliding_window": spec.sliding_window}


def _ernie4_5(config: Config) -> ModelSpec:
    config.refuse("use_bias", Phrase("biases in the MLP are not counted"))
    return decoder(
        config,
        "ernie4_5",
        key_value_heads=2,
        head_dim=None if "head_dim" in config.content else 128,
        tied_embeddings=True,
        rotary="products-fp32",
    )


def _ernie4_5_moe(config: Config) -> ModelSpec:
    no_router_loss(config)
    config.refuse("use_bias", Phrase("biases in the MLP are not counted"))
    count, size = config.integer("num_hidden_layers"), config.integer("moe_intermediate_size", 1536)
    end = config.integer("moe_layer_end_index", -1, least=-1)
    experts = ExpertsSpec(
        num_experts=config.integer("moe_num_experts", 64),
        experts_per_token=config.integer("moe_k", 6),
        intermediate_size=size,
        router="softmax-corrected",
        normalized=True,
        shared_intermediate_size=size * config.count("moe_num_shared_experts", 2),
        shared_first=True,
        first_dense_layers=config.count("moe_layer_start_index", 1),
        every=config.integer("moe_layer_interval", 1),
        dense_layers=() if end == -1 else tuple(range(end + 1, count)),
    )
    return decoder(
        config,
        "ernie4_5_moe",
        key_value_heads=4,
        tied_embeddings=True,
        rotary="products-fp32",
        experts=experts,
    )


def _ernie4_5_moe_keys(spec: ModelSpec) -> dict[str, Any]:
    experts = experts_of(spec)
    end = min(experts.dense_layers, default=spec.num_layers) - 1
    return hidden_act(spec) | {
        "moe_num_experts": experts.num_experts,
        "moe_k": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "moe_num_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "moe_layer_start_index": experts.first_dense_layers,
        "moe_layer_end_index": end,
        "moe_layer_interval": experts.every,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "cohere": Architecture(native_class="CohereForCausalLM", read=_cohere, written=_cohere_keys),
    "cohere2": Architecture(
        native_class="Cohere2ForCausalLM",
        read=_cohere2,
        written=_cohere2_keys,
        derived=("head_dim",),
    ),
    "ernie4_5": Architecture(
        native_class="Ernie4_5ForCausalLM", read=_ernie4_5, written=hidden_act
    ),
    "ernie4_5_moe": Architecture(
        native_class="Ernie4_5_MoeForCausalLM", read=_ernie4_5_moe, written=_ernie4_5_moe_keys
    ),
}
