"""Gemma 3n's text model; Gemma 4's, and the same beside models of images and of sound."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.gemma import GELU
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder
from planner.models.architectures.mixture import no_router_loss
from planner.models.architectures.windows import FULL, SLIDING, layer_types, windows
from planner.models.expert_shape import ExpertsSpec
from planner.models.layered_shape import FullHeadsSpec, PerLayerInputsSpec, SharedKeysSpec
from planner.models.model_spec import ModelSpec
from planner.models.towers import (
    AudioTowerSpec,
    FramesSpec,
    PatchesSpec,
    TowersSpec,
    VisionTowerSpec,
)

EVERY = 6
"""One layer in so many sees everything, where the file has no list."""
TABLE_ROWS = 262_144


def _gemma4_text(config: Config) -> ModelSpec:
    spec = _text(config, "gemma4_text", window=512)
    return structs.replace(
        spec, per_layer_inputs=_per_layer_inputs(config), experts=_experts(config)
    )


def _unified_text(config: Config) -> ModelSpec:
    """Return the shape of the text model of Gemma 4 12B, which is dense."""
    return _text(config, "gemma4_unified_text", window=1024)


def _text(config: Config, model_type: str, *, window: int) -> ModelSpec:
    no_router_loss(config)
    config.refuse("attention_dropout", Phrase("dropout in the model is not modelled"), ordinary=0.0)
    if config.content.get("use_bidirectional_attention") == "all":
        raise config.no_formulas(
            "use_bidirectional_attention", Phrase("it is not a causal language model")
        )
    bias, heads = config.flag("attention_bias"), config.integer("num_key_value_heads", 4)
    return decoder(
        config,
        model_type,
        key_value_heads=4,
        head_dim=256,
        tied_embeddings=True,
        qkv_bias=bias,
        output_bias=bias,
        activation=config.activation("hidden_activation", GELU),
        norm="rms-power",
        norms="around",
        qk_norm="heads",
        value_norm=True,
        scaled_embeddings=True,
        local_rotary=True,
        final_logit_softcapping=config.number("final_logit_softcapping", None),
        full_heads=_full_heads(config, heads),
        shared_keys=_shared_keys(config),
        **windows(_with_last_full(config), config.window(window)),
    )


def _gemma3n_text(config: Config) -> ModelSpec:
    from planner.models.architectures.gemma3n import gemma3n_text  # few plans need it

    return gemma3n_text(config)


def _gemma3n_keys(spec: ModelSpec) -> dict[str, Any]:
    from planner.models.architectures.gemma3n import gemma3n_keys

    return gemma3n_keys(spec)


def _with_last_full(config: Config) -> Config:
    """Return the configuration with a list of layers, the last of which has no window: the class
    sees to that, whatever a file states."""
    count = config.integer("num_hidden_layers")
    types = config.listed("layer_types", count)
    if types is None:
        types = [SLIDING if number % EVERY else FULL for number in range(1, count + 1)]
    return Config({**config.content, "layer_types": [*types[:-1], FULL]}, config.path)


def _full_heads(config: Config, heads: int) -> FullHeadsSpec:
    """Return the heads of layers without a window; files that transformers has written state them
    layer by layer."""
    shared = config.flag("attention_k_eq_v")
    head_dim = config.integer("global_head_dim", 512)
    if shared and config.content.get("num_global_key_value_heads") is not None:
        heads = config.integer("num_global_key_value_heads")
    layers = config.part("per_layer_config")
    if layers.content:
        first = layers.part(next(iter(layers.content)))
        if any(each != first.content for each in layers.content.values()):
            raise config.no_formulas("per_layer_config", Phrase("layers that differ in it"))
        head_dim = first.integer("head_dim", head_dim)
        heads = first.integer("num_key_value_heads", heads)
    return FullHeadsSpec(head_dim=head_dim, key_value_heads=heads, keys_are_values=shared)


def _shared_keys(config: Config) -> SharedKeysSpec | None:
    count = config.count("num_kv_shared_layers")
    if not count:
        return None
    return SharedKeysSpec(num_layers=count, wide_mlp=config.flag("use_double_wide_mlp"))


def _per_layer_inputs(config: Config) -> PerLayerInputsSpec | None:
    size = config.count("hidden_size_per_layer_input", 256)
    if not size:
        return None
    rows = config.integer("vocab_size_per_layer_input", TABLE_ROWS)
    return PerLayerInputsSpec(size=size, vocab_size=rows)


def _experts(config: Config) -> ExpertsSpec | None:
    if not config.flag("enable_moe_block"):
        return None
    return ExpertsSpec(
        num_experts=config.integer("num_experts"),
        experts_per_token=config.integer("top_k_experts"),
        intermediate_size=config.integer("moe_intermediate_size"),
        router="softmax-fp32",
        normalized=True,
        beside=True,
        router_matrix="proj",
    )


def _keys(spec: ModelSpec) -> dict[str, Any]:
    inputs = spec.per_layer_inputs
    keys = _unified_keys(spec) | {
        "hidden_size_per_layer_input": 0 if inputs is None else inputs.size
    }
    if inputs is not None:
        keys["vocab_size_per_layer_input"] = inputs.vocab_size
    if spec.experts is not None:
        keys |= {
            "enable_moe_block": True,
            "num_experts": spec.experts.num_experts,
            "top_k_experts": spec.experts.experts_per_token,
            "moe_intermediate_size": spec.experts.intermediate_size,
        }
    return keys


def _unified_keys(spec: ModelSpec) -> dict[str, Any]:
    full = spec.full_heads
    assert full is not None
    keys = {
        **attention_bias(spec),
        **layer_types(spec),
        "hidden_activation": ACTIVATION_NAMES[spec.activation],
        "sliding_window": spec.sliding_window,
        "final_logit_softcapping": spec.final_logit_softcapping,
        "global_head_dim": full.head_dim,
        "attention_k_eq_v": full.keys_are_values,
    }
    if full.keys_are_values:
        keys["num_global_key_value_heads"] = full.key_value_heads
    if spec.shared_keys is not None:
        keys["num_kv_shared_layers"] = spec.shared_keys.num_layers
        keys["use_double_wide_mlp"] = spec.shared_keys.wide_mlp
    return keys


def _gemma4(config: Config) -> ModelSpec:
    """Return the shape of the wrapper, which transformers builds with all that its file states."""
    spec = _gemma4_text(config.part("text_config"))
    vision, audio = _part(config, "vision_config"), _part(config, "audio_config")
    beside = TowersSpec(
        vision=None if vision is None else _vision(vision),
        audio=None if audio is None else _audio(audio),
    )
    return _wrapped(config, spec, "gemma4", beside)


def _gemma4_unified(config: Config) -> ModelSpec:
    """Return the shape of the wrapper of Gemma 4 12B, which always makes a mask where images are
    seen as a whole."""
    text = config.part("text_config")
    if text.content.get("use_bidirectional_attention", "vision") != "vision":
        raise text.no_formulas("use_bidirectional_attention", Phrase("such a mask"))
    vision, audio = _part(config, "vision_config"), _part(config, "audio_config")
    beside = TowersSpec(
        patches=None if vision is None else _patches(vision),
        frames=None if audio is None else _frames(audio),
    )
    return _wrapped(config, _unified_text(text), "gemma4_unified", beside)


def _part(config: Config, key: str) -> Config | None:
    """Return the keys inside ``key``; None where it is ``null`` or absent."""
    return None if config.content.get(key) is None else config.part(key)


def _wrapped(config: Config, spec: ModelSpec, model_type: str, beside: TowersSpec) -> ModelSpec:
    return structs.replace(
        spec,
        model_type=model_type,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        beside=beside if beside.all else None,
    )


def _frames(config: Config) -> FramesSpec:
    return FramesSpec(frame_size=config.integer("audio_embed_dim", 640))


def _patches(config: Config) -> PatchesSpec:
    side = config.integer("patch_size", 16) * config.integer("pooling_kernel_size", 3)
    return PatchesSpec(
        patch_size=side,
        hidden_size=config.integer("mm_embed_dim", 3840),
        position_rows=config.integer("mm_posemb_size", 1120),
        output_size=config.integer("output_proj_dims", 3840),
    )


def _vision(config: Config) -> VisionTowerSpec:
    return VisionTowerSpec(
        num_layers=config.integer("num_hidden_layers", 16),
        hidden_size=config.integer("hidden_size", 768),
        intermediate_size=config.integer("intermediate_size", 3072),
        num_attention_heads=config.integer("num_attention_heads", 12),
        num_key_value_heads=config.integer("num_key_value_heads", 12),
        head_dim=config.integer("head_dim", 64),
        patch_size=config.integer("patch_size", 16),
        position_rows=config.integer("position_embedding_size", 10_240),
    )


def _audio(config: Config) -> AudioTowerSpec:
    key = "subsampling_conv_channels"
    channels = config.listed(key, 2) or [128, 32]
    if not all(isinstance(each, int) and each > 3 for each in channels):
        raise config.error(Phrase("{key}: {value!r} are no channels", key=key, value=channels))
    return AudioTowerSpec(
        num_layers=config.integer("num_hidden_layers", 12),
        hidden_size=config.integer("hidden_size", 1024),
        num_attention_heads=config.integer("num_attention_heads", 8),
        kernel_size=config.integer("conv_kernel_size", 5),
        channels=(channels[0], channels[1]),
        output_size=config.integer("output_proj_dims", 1536),
    )


def _wrapper_keys(spec: ModelSpec) -> dict[str, Any]:
    beside = spec.beside or TowersSpec()
    vision, audio = beside.vision, beside.audio
    return {
        "vision_config": None if vision is None else _vision_keys(vision),
        "audio_config": None if audio is None else _audio_keys(audio),
    }


def _unified_wrapper_keys(spec: ModelSpec) -> dict[str, Any]:
    beside = spec.beside or TowersSpec()
    patches, frames = beside.patches, beside.frames
    of_patches = patches and {
        "model_type": "gemma4_unified_vision",
        "patch_size": patches.patch_size,
        "pooling_kernel_size": 1,
        "mm_embed_dim": patches.hidden_size,
        "mm_posemb_size": patches.position_rows,
        "output_proj_dims": patches.output_size,
    }
    of_frames = frames and {
        "model_type": "gemma4_unified_audio",
        "audio_embed_dim": frames.frame_size,
    }
    return {"vision_config": of_patches, "audio_config": of_frames}


def _vision_keys(tower: VisionTowerSpec) -> dict[str, Any]:
    return {
        "model_type": "gemma4_vision",
        "num_hidden_layers": tower.num_layers,
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_attention_heads": tower.num_attention_heads,
        "num_key_value_heads": tower.num_key_value_heads,
        "head_dim": tower.head_dim,
        "patch_size": tower.patch_size,
        "position_embedding_size": tower.position_rows,
    }


def _audio_keys(tower: AudioTowerSpec) -> dict[str, Any]:
    return {
        "model_type": "gemma4_audio",
        "num_hidden_layers": tower.num_layers,
        "hidden_size": tower.hidden_size,
        "num_attention_heads": tower.num_attention_heads,
        "conv_kernel_size": tower.kernel_size,
        "subsampling_conv_channels": list(tower.channels),
        "output_proj_dims": tower.output_size,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma3n_text": Architecture(
        native_class="Gemma3nForCausalLM", read=_gemma3n_text, written=_gemma3n_keys
    ),
    "gemma4": Architecture(
        native_class="Gemma4ForConditionalGeneration",
        read=_gemma4,
        written=_wrapper_keys,
        wraps="gemma4_text",
    ),
    "gemma4_unified": Architecture(
        native_class="Gemma4UnifiedForConditionalGeneration",
        read=_gemma4_unified,
        written=_unified_wrapper_keys,
        wraps="gemma4_unified_text",
    ),
    "gemma4_unified_text": Architecture(
        native_class="Gemma4UnifiedForCausalLM", read=_unified_text, written=_unified_keys
    ),
    "gemma4_text": Architecture(native_class="Gemma4ForCausalLM", read=_gemma4_text, written=_keys),
}
