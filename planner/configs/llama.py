"""Llama and those that differ from it by a few keys: Mistral, Qwen, Phi-3."""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Architecture, Config
from planner.model import Mlp, ModelSpec, Norms, Rotary


def decoder(
    config: Config,
    model_type: str,
    *,
    key_value_heads: int | None = None,
    head_dim: int | None = None,
    rotary_fraction: float = 1.0,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp: Mlp = "swiglu",
    sliding_window: int | None = None,
    rotary: Rotary = "halves",
    norms: Norms = "before",
    qk_norm: bool = False,
    fused_qkv: bool = False,
) -> ModelSpec:
    """The names that Llama's descendants share; the keywords are what a class assumes or fixes."""
    hidden_size = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    if key_value_heads is None or "num_key_value_heads" in config.content:
        key_value_heads = heads
    rotary_fraction = config.fraction("partial_rotary_factor", rotary_fraction)
    rope = config.part("rope_parameters")
    return ModelSpec(
        model_type=model_type,
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=config.integer("num_key_value_heads", key_value_heads),
        head_dim=config.integer("head_dim", head_dim or hidden_size // heads),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        sliding_window=sliding_window,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        tied_embeddings=config.flag("tie_word_embeddings"),
        mlp=mlp,
        rotary_fraction=rope.fraction("partial_rotary_factor", rotary_fraction),
        rotary=rotary,
        norms=norms,
        qk_norm=qk_norm,
        fused_qkv=fused_qkv,
    )


def attention_bias(spec: ModelSpec) -> dict[str, Any]:
    """The key of those whose projections may have biases."""
    return {"attention_bias": spec.qkv_bias}


def _sliding_window(spec: ModelSpec) -> dict[str, Any]:
    """The key of those whose every layer has the window."""
    return {"sliding_window": spec.sliding_window}


def _llama(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", "the parameter count knows no biases in the MLP")
    bias = config.flag("attention_bias")
    return decoder(config, "llama", qkv_bias=bias, output_bias=bias)


def _mistral(config: Config) -> ModelSpec:
    return decoder(config, "mistral", key_value_heads=8, sliding_window=config.window(4096))


def _qwen2(config: Config) -> ModelSpec:
    return decoder(config, "qwen2", key_value_heads=32, qkv_bias=True)


def _qwen3(config: Config) -> ModelSpec:
    config.refuse("use_sliding_window", "its mask is not in the ledger")
    bias = config.flag("attention_bias")
    return decoder(
        config,
        "qwen3",
        key_value_heads=32,
        head_dim=128,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
    )


def _phi3(config: Config) -> ModelSpec:
    for key in ("resid_pdrop", "embd_pdrop", "attention_dropout"):
        config.refuse(key, "dropout in the model is not in the ledger", ordinary=0.0)
    return decoder(
        config,
        "phi3",
        fused_qkv=True,
        mlp="fused-swiglu",
        rotary="joined",
        sliding_window=config.window(None),
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(native_class="LlamaForCausalLM", read=_llama, written=attention_bias),
    "mistral": Architecture(
        native_class="MistralForCausalLM", read=_mistral, written=_sliding_window
    ),
    "phi3": Architecture(native_class="Phi3ForCausalLM", read=_phi3, written=_sliding_window),
    "qwen2": Architecture(native_class="Qwen2ForCausalLM", read=_qwen2),
    "qwen3": Architecture(native_class="Qwen3ForCausalLM", read=_qwen3, written=attention_bias),
}
