"""SmolLM3: a Llama whose every fourth layer does not turn queries and keys."""

from collections.abc import Mapping
from typing import Any

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.model_spec import ModelSpec


def _smollm3(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    config.refuse("use_sliding_window", Phrase("no published model has windows"))
    bias = config.flag("attention_bias")
    return decoder(
        config,
        "smollm3",
        key_value_heads=4,
        tied_embeddings=True,
        qkv_bias=bias,
        output_bias=bias,
        unrotated_every=_unrotated_every(config),
    )


def _unrotated_every(config: Config) -> int | None:
    """Return every how many layers one does not turn; ``no_rope_layers`` holds 1 for a layer that
    does, 0 for one that does not."""
    count = config.integer("num_hidden_layers")
    turned = config.listed("no_rope_layers", count)
    if turned is None:
        return config.integer("no_rope_layer_interval", 4)
    if 0 not in turned:
        return None
    every = turned.index(0) + 1
    if turned != [int(number % every != 0) for number in range(1, count + 1)]:
        raise config.no_formulas("no_rope_layers", Phrase("such an order of layers"))
    return every


def _keys(spec: ModelSpec) -> dict[str, Any]:
    turned = {"no_rope_layers": [int(kind.rotates) for kind in spec.layers]}
    return attention_bias(spec) | hidden_act(spec) | turned


ARCHITECTURES: Mapping[str, Architecture] = {
    "smollm3": Architecture(native_class="SmolLM3ForCausalLM", read=_smollm3, written=_keys),
}
