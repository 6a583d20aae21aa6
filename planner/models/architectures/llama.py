"""Llama and those that differ from it by a few keys: Mistral, Qwen, Phi-3, Seed-OSS."""

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from planner.base.phrases import Phrase
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.architectures.windows import Windows, windows
from planner.models.expert_shape import ExpertsSpec, LatentAttentionSpec
from planner.models.layer_kinds import Blocks
from planner.models.layered_shape import (
    AltUpSpec,
    FullHeadsSpec,
    PerLayerInputsSpec,
    SharedKeysSpec,
)
from planner.models.model_spec import (
    Activation,
    Mlp,
    ModelSpec,
    Norm,
    Norms,
    Positions,
    QkNorm,
    Residual,
    Rotary,
)
from planner.models.recurrent_shape import (
    GatedDeltaSpec,
    Mamba2Spec,
    MambaSpec,
    ShortConvolutionSpec,
)


class Parts(TypedDict, total=False):
    """What a class fixes, or what only some classes read: fields of :class:`ModelSpec`."""

    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    mlp: Mlp
    activation: Activation
    residual: Residual
    residual_dropout: float
    attention_dropout: float
    sliding_window: int | None
    full_attention_every: int | None
    full_attention_first: int
    unrotated_every: int | None
    local_rotary: bool
    rotary: Rotary
    norm: Norm
    norms: Norms
    qk_norm: QkNorm | None
    fused_qkv: bool
    scaled_embeddings: bool
    multipliers: bool
    scaled_logits: bool
    scaled_blocks: bool
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    tempered_attention: bool
    attention_sinks: bool
    experts: ExpertsSpec | None
    gated_attention: bool
    delta: GatedDeltaSpec | None
    mamba: Mamba2Spec | None
    mamba_1: MambaSpec | None
    convolution: ShortConvolutionSpec | None
    layer_letters: str | None
    blocks: Blocks
    logits_in_fp32: bool
    positions: Positions
    latent: LatentAttentionSpec | None
    full_heads: FullHeadsSpec | None
    value_norm: bool
    shared_keys: SharedKeysSpec | None
    per_layer_inputs: PerLayerInputsSpec | None
    altup: AltUpSpec | None


def decoder(
    config: Config,
    model_type: str,
    *,
    key_value_heads: int | None = None,
    head_dim: int | None = None,
    rotary_fraction: float = 1.0,
    tied_embeddings: bool = False,
    intermediate_size: int | None = None,
    **parts: Unpack[Parts],
) -> ModelSpec:
    """Return the shape of Llama's descendants; the keywords are what a class assumes or fixes."""
    hidden_size = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    if key_value_heads is None or "num_key_value_heads" in config.content:
        key_value_heads = heads
    rotary_fraction = config.fraction("partial_rotary_factor", rotary_fraction)
    rope = config.part("rope_parameters")
    parts.setdefault("activation", config.activation("hidden_act", "silu"))
    return ModelSpec(
        model_type=model_type,
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size", intermediate_size),
        num_attention_heads=heads,
        num_key_value_heads=config.integer("num_key_value_heads", key_value_heads),
        head_dim=config.integer("head_dim", head_dim or hidden_size // heads),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        tied_embeddings=config.flag("tie_word_embeddings", default=tied_embeddings),
        rotary_fraction=rope.fraction("partial_rotary_factor", rotary_fraction),
        **parts,
    )


def attention_bias(spec: ModelSpec) -> dict[str, Any]:
    """Return the key of architectures whose projections may have biases."""
    return {"attention_bias": spec.qkv_bias}


def hidden_act(spec: ModelSpec) -> dict[str, Any]:
    """Return the key of architectures whose activation may differ from silu."""
    return {} if spec.activation == "silu" else {"hidden_act": ACTIVATION_NAMES[spec.activation]}


def _llama_keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | hidden_act(spec)


def _sliding_window(spec: ModelSpec) -> dict[str, Any]:
    """Return the key of architectures whose every layer has the window."""
    return {"sliding_window": spec.sliding_window}


def _qwen2_keys(spec: ModelSpec) -> dict[str, Any]:
    if spec.sliding_window is None:
        return {}
    return {
        "use_sliding_window": True,
        "sliding_window": spec.sliding_window,
        "max_window_layers": spec.full_attention_first,
    }


def _qwen3_keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | _qwen2_keys(spec)


def _llama(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    bias = config.flag("attention_bias")
    return decoder(config, "llama", qkv_bias=bias, output_bias=bias)


def _internlm3(config: Config) -> ModelSpec:
    """Return the shape of InternLM3, which transformers builds as Llama; ``qkv_bias`` is the bias
    of all projections of attention."""
    config.refuse("bias", Phrase("biases in the MLP are not counted"))
    return _built_as_llama(
        config, key_value_heads=2, bias=config.flag("qkv_bias", config.flag("attention_bias"))
    )


def _iquestcoder(config: Config) -> ModelSpec:
    """Return the shape of IQuest-Coder, which transformers builds as Llama."""
    return _built_as_llama(config, key_value_heads=8, bias=config.flag("attention_bias"))


def _built_as_llama(config: Config, *, key_value_heads: int, bias: bool) -> ModelSpec:
    """Return a Llama; a ``head_dim`` of ``null`` means the hidden size shared by the heads, none at
    all 128."""
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    return decoder(
        config,
        "llama",
        key_value_heads=key_value_heads,
        head_dim=None if "head_dim" in config.content else 128,
        qkv_bias=bias,
        output_bias=bias,
    )


def _mistral(config: Config) -> ModelSpec:
    return decoder(config, "mistral", key_value_heads=8, sliding_window=config.window(4096))


def _qwen2(config: Config) -> ModelSpec:
    return decoder(config, "qwen2", key_value_heads=32, qkv_bias=True, **_qwen_windows(config))


def _qwen_windows(config: Config) -> Windows:
    if not config.flag("use_sliding_window"):
        return {}
    first = config.integer("max_window_layers", 28, least=0)
    return windows(config, config.window(4096), full_first=first)


def _qwen3(config: Config) -> ModelSpec:
    bias = config.flag("attention_bias")
    return decoder(
        config,
        "qwen3",
        key_value_heads=32,
        head_dim=128,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        **_qwen_windows(config),
    )


def _phi3(config: Config) -> ModelSpec:
    for key in ("resid_pdrop", "embd_pdrop", "attention_dropout"):
        config.refuse(key, Phrase("dropout in the model is not modelled"), ordinary=0.0)
    return decoder(
        config,
        "phi3",
        fused_qkv=True,
        mlp="fused-swiglu",
        rotary="joined",
        sliding_window=config.window(None),
    )


def _seed_oss(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    return decoder(
        config,
        "seed_oss",
        key_value_heads=8,
        head_dim=None if "head_dim" in config.content else 128,
        qkv_bias=config.flag("attention_bias", default=True),
        output_bias=config.flag("attention_out_bias"),
        residual_dropout=config.fraction("residual_dropout", 0.1),
        attention_dropout=config.fraction("attention_dropout", 0.1),
    )


def _seed_oss_keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | {
        "attention_out_bias": spec.output_bias,
        "residual_dropout": spec.residual_dropout,
        "attention_dropout": spec.attention_dropout,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "internlm3": Architecture(native_class=None, read=_internlm3),
    "iquestcoder": Architecture(native_class=None, read=_iquestcoder),
    "llama": Architecture(native_class="LlamaForCausalLM", read=_llama, written=_llama_keys),
    "mistral": Architecture(
        native_class="MistralForCausalLM", read=_mistral, written=_sliding_window
    ),
    "phi3": Architecture(native_class="Phi3ForCausalLM", read=_phi3, written=_sliding_window),
    "qwen2": Architecture(native_class="Qwen2ForCausalLM", read=_qwen2, written=_qwen2_keys),
    "qwen3": Architecture(native_class="Qwen3ForCausalLM", read=_qwen3, written=_qwen3_keys),
    "seed_oss": Architecture(
        native_class="SeedOssForCausalLM", read=_seed_oss, written=_seed_oss_keys
    ),
}
