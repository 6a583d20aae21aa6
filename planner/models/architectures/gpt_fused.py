"""Those of the GPT line with one matrix for query, key and value: Bloom and Falcon."""

from collections.abc import Mapping
from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.model_spec import ModelSpec


def _falcon(config: Config) -> ModelSpec:
    config.refuse("alibi", Phrase("Falcon's slopes on the scores are not modelled"))
    config.refuse("hidden_dropout", Phrase("dropout in this model is not modelled"), 0.0)
    config.refuse("attention_dropout", Phrase("dropout in this model is not modelled"), 0.0)
    config.refuse("bias", Phrase("FalconLinear adds its bias apart, which is not modelled"))
    grouped = config.flag("new_decoder_architecture")
    if not grouped:
        config.refuse("multi_query", Phrase("as many keys as queries are not modelled"), True)
        config.refuse("parallel_attn", Phrase("its sequential layers are not modelled"), True)
    heads = config.either("num_attention_heads", "n_head", 71)
    hidden_size = config.integer("hidden_size", 4544)
    norms = config.integer("num_ln_in_parallel_attn", 2 if grouped else 1)
    return ModelSpec(
        model_type="falcon",
        num_layers=config.either("num_hidden_layers", "n_layer", 32),
        hidden_size=hidden_size,
        intermediate_size=config.integer("ffn_hidden_size", 4 * hidden_size),
        num_attention_heads=heads,
        num_key_value_heads=config.integer("num_kv_heads", heads) if grouped else 1,
        head_dim=hidden_size // heads,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings", 2048),
        fused_qkv=True,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        mlp="plain",
        activation=config.activation("activation", "gelu"),
        norm="layer",
        norm_bias=True,
        residual="parallel-two-norms" if grouped and norms > 1 else "parallel",
    )


def _falcon_keys(spec: ModelSpec) -> dict[str, Any]:
    grouped = spec.num_key_value_heads > 1
    return {
        "ffn_hidden_size": spec.intermediate_size,
        "activation": ACTIVATION_NAMES[spec.activation],
        "new_decoder_architecture": grouped,
        "num_ln_in_parallel_attn": 1 if spec.residual == "parallel" else 2,
        **({"num_kv_heads": spec.num_key_value_heads} if grouped else {}),
    }


def _bloom(config: Config) -> ModelSpec:
    config.refuse(
        "apply_residual_connection_post_layernorm", Phrase("its residual is the norm's output")
    )
    config.refuse("attention_dropout", Phrase("dropout of its attention is not modelled"), 0.0)
    config.refuse("slow_but_exact", Phrase("its sliced products are not modelled"))
    heads = config.either("n_head", "num_attention_heads", 8)
    hidden_size = config.either("hidden_size", "n_embed", 64)
    return ModelSpec(
        model_type="bloom",
        num_layers=config.either("n_layer", "num_hidden_layers", 2),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden_size // heads,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.either("seq_length", "max_position_embeddings", 2048),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        fused_qkv=True,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        mlp="plain",
        activation="gelu-tanh",
        norm="layer",
        norm_bias=True,
        embedding_norm=True,
        positions="alibi",
        residual_dropout=config.fraction("hidden_dropout", 0.0),
    )


def _bloom_keys(spec: ModelSpec) -> dict[str, Any]:
    return {"hidden_dropout": spec.residual_dropout}


ARCHITECTURES: Mapping[str, Architecture] = {
    "bloom": Architecture(native_class="BloomForCausalLM", read=_bloom, written=_bloom_keys),
    "falcon": Architecture(
        native_class="FalconForCausalLM",
        read=_falcon,
        written=_falcon_keys,
        derived=("head_dim",),
    ),
}
