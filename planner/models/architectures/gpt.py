"""Those of the GPT line that rotate: Phi, StableLM, GPT-NeoX, StarCoder2. Norms are LayerNorms."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from planner.base.phrases import Phrase
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.model_spec import ModelSpec

NO_PLACE = Phrase("it is dropped at a place that the ledger does not know")


def _rotary_fraction(config: Config, default: float, key: str = "partial_rotary_factor") -> float:
    """Return the share of dimensions that rotate, under its own key or as checkpoints of
    transformers 5 hold it."""
    rope = config.part("rope_parameters")
    return rope.fraction("partial_rotary_factor", config.fraction(key, default))


class _Shape(TypedDict):
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm: Literal["layer"]
    norm_bias: bool


def _shape(config: Config, *, positions: int) -> _Shape:
    """Return what the four architectures read alike; ``positions`` is for files that do not say."""
    heads = config.integer("num_attention_heads")
    hidden_size = config.integer("hidden_size")
    return {
        "num_layers": config.integer("num_hidden_layers"),
        "hidden_size": hidden_size,
        "intermediate_size": config.integer("intermediate_size"),
        "num_attention_heads": heads,
        "head_dim": hidden_size // heads,
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_position_embeddings", positions),
        "norm": "layer",
        "norm_bias": True,
    }


def _phi(config: Config) -> ModelSpec:
    config.refuse("qk_layernorm", Phrase("norms of queries and keys are not modelled"))
    shape = _shape(config, positions=2048)
    return ModelSpec(
        **shape,
        model_type="phi",
        num_key_value_heads=config.integer("num_key_value_heads", shape["num_attention_heads"]),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        tied_embeddings=config.flag("tie_word_embeddings"),
        mlp="plain",
        activation=config.activation("hidden_act", "gelu_new"),
        residual="parallel",
        embedding_dropout=config.fraction("embd_pdrop", 0.0),
        residual_dropout=config.fraction("resid_pdrop", 0.0),
        attention_dropout=config.fraction("attention_dropout", 0.0),
        rotary="joined",
        rotary_fraction=_rotary_fraction(config, 0.5),
    )


def _phi_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_act": ACTIVATION_NAMES[spec.activation],
        "embd_pdrop": spec.embedding_dropout,
        "resid_pdrop": spec.residual_dropout,
        "attention_dropout": spec.attention_dropout,
    }


def _stablelm(config: Config) -> ModelSpec:
    config.refuse("qk_layernorm", Phrase("norms of queries and keys are not modelled"))
    config.refuse("hidden_dropout", NO_PLACE, ordinary=0.0)
    shape = _shape(config, positions=4096)
    parallel = config.flag("use_parallel_residual")
    return ModelSpec(
        **shape,
        model_type="stablelm",
        num_key_value_heads=config.integer("num_key_value_heads", 32),
        qkv_bias=config.flag("use_qkv_bias"),
        tied_embeddings=config.flag("tie_word_embeddings"),
        activation=config.activation("hidden_act", "silu"),
        residual="parallel" if parallel else "sequential",
        attention_dropout=config.fraction("attention_dropout", 0.0),
        rotary="joined",
        rotary_fraction=_rotary_fraction(config, 0.25),
    )


def _stablelm_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_act": ACTIVATION_NAMES[spec.activation],
        "use_qkv_bias": spec.qkv_bias,
        "use_parallel_residual": spec.residual == "parallel",
        "attention_dropout": spec.attention_dropout,
    }


def _gpt_neox(config: Config) -> ModelSpec:
    shape = _shape(config, positions=2048)
    bias = config.flag("attention_bias", default=True)
    parallel = config.flag("use_parallel_residual", default=True)
    dropout = config.fraction("hidden_dropout", 0.0)
    return ModelSpec(
        **shape,
        model_type="gpt_neox",
        num_key_value_heads=shape["num_attention_heads"],
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        fused_qkv=True,
        tied_embeddings=config.flag("tie_word_embeddings"),
        mlp="plain",
        activation=config.activation("hidden_act", "gelu"),
        residual="parallel-two-norms" if parallel else "sequential",
        embedding_dropout=dropout,
        residual_dropout=dropout,
        attention_dropout=config.fraction("attention_dropout", 0.0),
        rotary="joined",
        rotary_fraction=_rotary_fraction(config, 0.25, "rotary_pct"),
    )


def _gpt_neox_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_act": ACTIVATION_NAMES[spec.activation],
        "attention_bias": spec.qkv_bias,
        "use_parallel_residual": spec.residual != "sequential",
        "hidden_dropout": spec.residual_dropout,
        "attention_dropout": spec.attention_dropout,
    }


def _starcoder2(config: Config) -> ModelSpec:
    bias = config.flag("use_bias", default=True)
    shape = _shape(config, positions=4096)
    return ModelSpec(
        **shape,
        model_type="starcoder2",
        num_key_value_heads=config.integer("num_key_value_heads", 2),
        sliding_window=config.window(None),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        mlp="plain",
        activation=config.activation("hidden_act", "gelu_pytorch_tanh"),
        embedding_dropout=config.fraction("embedding_dropout", 0.0),
        residual_dropout=config.fraction("residual_dropout", 0.0),
        attention_dropout=config.fraction("attention_dropout", 0.0),
    )


def _starcoder2_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_act": ACTIVATION_NAMES[spec.activation],
        "use_bias": spec.mlp_bias,
        "sliding_window": spec.sliding_window,
        "embedding_dropout": spec.embedding_dropout,
        "residual_dropout": spec.residual_dropout,
        "attention_dropout": spec.attention_dropout,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt_neox": Architecture(
        native_class="GPTNeoXForCausalLM", read=_gpt_neox, written=_gpt_neox_keys
    ),
    "phi": Architecture(native_class="PhiForCausalLM", read=_phi, written=_phi_keys),
    "stablelm": Architecture(
        native_class="StableLmForCausalLM", read=_stablelm, written=_stablelm_keys
    ),
    "starcoder2": Architecture(
        native_class="Starcoder2ForCausalLM", read=_starcoder2, written=_starcoder2_keys
    ),
}
