"""Those of the GPT line that learn their positions: GPT-2 and OPT."""

from collections.abc import Mapping
from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.model_spec import ModelSpec


def _gpt2(config: Config) -> ModelSpec:
    config.refuse("add_cross_attention", Phrase("a decoder without an encoder has none"))
    heads = config.either("n_head", "num_attention_heads", 12)
    hidden_size = config.either("n_embd", "hidden_size", 768)
    return ModelSpec(
        model_type="gpt2",
        num_layers=config.either("n_layer", "num_hidden_layers", 12),
        hidden_size=hidden_size,
        intermediate_size=config.integer("n_inner", 4 * hidden_size),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden_size // heads,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.either("n_positions", "max_position_embeddings", 1024),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        fused_qkv=True,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        mlp="plain",
        activation=config.activation("activation_function", "gelu_new"),
        norm="layer",
        norm_bias=True,
        positions="learned",
        embedding_dropout=config.fraction("embd_pdrop", 0.1),
        residual_dropout=config.fraction("resid_pdrop", 0.1),
        attention_dropout=config.fraction("attn_pdrop", 0.1),
    )


def _gpt2_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        "n_inner": spec.intermediate_size,
        "activation_function": ACTIVATION_NAMES[spec.activation],
        "embd_pdrop": spec.embedding_dropout,
        "resid_pdrop": spec.residual_dropout,
        "attn_pdrop": spec.attention_dropout,
    }


def _opt(config: Config) -> ModelSpec:
    hidden_size = config.integer("hidden_size")
    config.refuse(
        "do_layer_norm_before", Phrase("norms behind the residual are not modelled"), True
    )
    config.refuse("word_embed_proj_dim", Phrase("its embeddings are projected"), hidden_size)
    config.refuse("layerdrop", Phrase("it leaves out layers"), 0.0)
    config.refuse(
        "_remove_final_layer_norm", Phrase("a model without its last norm is not counted")
    )
    config.refuse("layer_norm_elementwise_affine", Phrase("its norms have no parameters"), True)
    bias = config.flag("enable_bias", default=True)
    heads = config.integer("num_attention_heads")
    return ModelSpec(
        model_type="opt",
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("ffn_dim", 3072),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden_size // heads,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings", 2048),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        mlp="plain",
        activation=config.activation("activation_function", "relu"),
        norm="layer",
        norm_bias=True,
        positions="learned",
        position_offset=2,
        residual_dropout=config.fraction("dropout", 0.1),
        attention_dropout=config.fraction("attention_dropout", 0.0),
    )


def _opt_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        "ffn_dim": spec.intermediate_size,
        "activation_function": ACTIVATION_NAMES[spec.activation],
        "enable_bias": spec.mlp_bias,
        "dropout": spec.residual_dropout,
        "attention_dropout": spec.attention_dropout,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": Architecture(native_class="GPT2LMHeadModel", read=_gpt2, written=_gpt2_keys),
    "gpt-sw3": Architecture(native_class=None, read=_gpt2),
    "opt": Architecture(native_class="OPTForCausalLM", read=_opt, written=_opt_keys),
}
