"""Gemma, Gemma 2 and the text models of Gemma 3."""

from collections.abc import Mapping
from typing import Any, TypedDict

from planner.base.phrases import Phrase
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder
from planner.models.architectures.windows import layer_types, windows
from planner.models.model_spec import Activation, ModelSpec, Norm

EVERY = {"gemma2": 2, "gemma3_text": 6}
"""One layer in so many sees everything, where the file has no list."""
GELU = "gelu_pytorch_tanh"


class _Parts(TypedDict):
    """Fields of :class:`ModelSpec` that all Gemmas have in common."""

    qkv_bias: bool
    output_bias: bool
    activation: Activation
    norm: Norm
    scaled_embeddings: bool


def _parts(config: Config, activation_key: str) -> _Parts:
    config.refuse("use_bidirectional_attention", Phrase("it is not a causal language model"))
    config.refuse("attention_dropout", Phrase("dropout in the model is not modelled"), ordinary=0.0)
    bias = config.flag("attention_bias")
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "activation": config.activation(activation_key, GELU),
        "norm": "rms-plus-one",
        "scaled_embeddings": True,
    }


def _gemma(config: Config) -> ModelSpec:
    return decoder(
        config,
        "gemma",
        key_value_heads=16,
        head_dim=256,
        tied_embeddings=True,
        **_parts(config, "hidden_act"),
    )


def _gemma2(config: Config) -> ModelSpec:
    return decoder(
        config,
        "gemma2",
        key_value_heads=4,
        head_dim=256,
        tied_embeddings=True,
        norms="around",
        attn_logit_softcapping=config.number("attn_logit_softcapping", 50.0),
        final_logit_softcapping=config.number("final_logit_softcapping", 30.0),
        **windows(config, config.window(4096), full_every=EVERY["gemma2"]),
        **_parts(config, "hidden_activation"),
    )


def _gemma3_text(config: Config) -> ModelSpec:
    """Return the shape; its attention never caps the scores, whatever the file states."""
    every = config.integer("sliding_window_pattern", EVERY["gemma3_text"])
    return decoder(
        config,
        "gemma3_text",
        key_value_heads=4,
        head_dim=256,
        tied_embeddings=True,
        norms="around",
        qk_norm="heads",
        local_rotary=True,
        final_logit_softcapping=config.number("final_logit_softcapping", None),
        **windows(config, config.window(4096), full_every=every),
        **_parts(config, "hidden_activation"),
    )


def _gemma_keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | {"hidden_act": ACTIVATION_NAMES[spec.activation]}


def _gemma2_keys(spec: ModelSpec) -> dict[str, Any]:
    keys = attention_bias(spec) | {
        "hidden_activation": ACTIVATION_NAMES[spec.activation],
        "sliding_window": spec.sliding_window,
        "attn_logit_softcapping": spec.attn_logit_softcapping,
        "final_logit_softcapping": spec.final_logit_softcapping,
    }
    if spec.full_attention_every == EVERY[spec.model_type]:
        return keys
    return keys | layer_types(spec)


ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma": Architecture(native_class="GemmaForCausalLM", read=_gemma, written=_gemma_keys),
    "gemma2": Architecture(native_class="Gemma2ForCausalLM", read=_gemma2, written=_gemma2_keys),
    "gemma3_text": Architecture(
        native_class="Gemma3ForCausalLM", read=_gemma3_text, written=_gemma2_keys
    ),
}
