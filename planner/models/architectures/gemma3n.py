"""The text model of Gemma 3n."""

from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.gemma import GELU
from planner.models.architectures.keys import ACTIVATION_NAMES, Config
from planner.models.architectures.llama import attention_bias, decoder
from planner.models.architectures.windows import FULL, SLIDING, layer_types, windows
from planner.models.layered_shape import AltUpSpec, PerLayerInputsSpec, SharedKeysSpec
from planner.models.model_spec import ModelSpec

EVERY = 5
"""One layer in so many sees everything, where the file has no list."""
TABLE_ROWS = 262_144
SPARSITY = 0.95
"""Share of the activations that sparse layers leave out, where the file has no list."""


def gemma3n_text(config: Config) -> ModelSpec:
    """Return the shape of Gemma 3n's text model."""
    config.refuse("attention_dropout", Phrase("dropout in the model is not modelled"), ordinary=0.0)
    config.refuse("altup_correct_scale", Phrase("such streams are not modelled"), ordinary=True)
    config.refuse("altup_active_idx", Phrase("such streams are not modelled"), ordinary=0)
    bias, count = config.flag("attention_bias"), config.integer("num_hidden_layers")
    listed = config.listed("layer_types", count) or [
        SLIDING if number % EVERY else FULL for number in range(1, count + 1)
    ]
    shared = config.count("num_kv_shared_layers", 15)
    given = Config(
        {**config.content, "layer_types": listed, "intermediate_size": _width(config, count)},
        config.path,
    )
    return decoder(
        given,
        "gemma3n_text",
        key_value_heads=2,
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
        final_logit_softcapping=config.number("final_logit_softcapping", 30.0),
        shared_keys=SharedKeysSpec(num_layers=shared) if shared else None,
        per_layer_inputs=PerLayerInputsSpec(
            size=config.integer("hidden_size_per_layer_input", 256),
            vocab_size=config.integer("vocab_size_per_layer_input", TABLE_ROWS),
        ),
        altup=AltUpSpec(
            streams=config.integer("altup_num_inputs", 4),
            rank=config.integer("laurel_rank", 64),
            sparse_layers=_sparse_layers(config, count),
        ),
        **windows(given, config.window(512)),
    )


def _width(config: Config, count: int) -> int:
    """Return the width of the MLPs, which a file may state layer by layer."""
    key = "intermediate_size"
    if not isinstance(config.content.get(key), list):
        return config.integer(key, 16_384)
    widths = config.listed(key, count) or []
    if len(set(map(str, widths))) > 1:
        raise config.no_formulas(key, Phrase("layers that differ in it"))
    return Config({key: widths[0]}, config.path).integer(key)


def _sparse_layers(config: Config, count: int) -> int:
    """Return how many layers at the start are sparse."""
    key = "activation_sparsity_pattern"
    pattern = config.listed(key, count)
    if pattern is None:
        return 10 if count > 10 else 0
    sparse = [bool(share) for share in pattern]
    if sparse != sorted(sparse, reverse=True):
        raise config.no_formulas(key, Phrase("such layers"))
    return sum(sparse)


def gemma3n_keys(spec: ModelSpec) -> dict[str, Any]:
    """Return Gemma 3n's keys."""
    altup, inputs = spec.altup, spec.per_layer_inputs
    assert altup is not None
    assert inputs is not None
    rest = spec.num_layers - altup.sparse_layers
    return {
        **attention_bias(spec),
        **layer_types(spec),
        "hidden_activation": ACTIVATION_NAMES[spec.activation],
        "sliding_window": spec.sliding_window,
        "final_logit_softcapping": spec.final_logit_softcapping,
        "num_kv_shared_layers": 0 if spec.shared_keys is None else spec.shared_keys.num_layers,
        "hidden_size_per_layer_input": inputs.size,
        "vocab_size_per_layer_input": inputs.vocab_size,
        "altup_num_inputs": altup.streams,
        "laurel_rank": altup.rank,
        "activation_sparsity_pattern": [SPARSITY] * altup.sparse_layers + [0.0] * rest,
    }
