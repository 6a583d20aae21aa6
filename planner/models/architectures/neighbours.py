"""Those that turn neighbouring dimensions in fp32: Cohere's Command and ERNIE 4.5."""

from collections.abc import Mapping
from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.windows import Windows, layer_types, windows
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
}
