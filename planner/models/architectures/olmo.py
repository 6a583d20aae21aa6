"""OLMo-2 and 3, and EXAONE 4: norms after attention and MLP."""

from collections.abc import Mapping
from typing import Any

from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.architectures.windows import Windows, layer_types, windows
from planner.models.model_spec import ModelSpec


def _olmo2(
    config: Config,
    model_type: str = "olmo2",
    *,
    local_rotary: bool = False,
    hybrid: Windows | None = None,
) -> ModelSpec:
    bias = config.flag("attention_bias")
    return decoder(
        config,
        model_type,
        local_rotary=local_rotary,
        **(hybrid or {}),
        qkv_bias=bias,
        output_bias=bias,
        norm="rms-fp32",
        norms="after",
        qk_norm="whole",
        rotary="halves-fp32",
    )


def _olmo2_keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | hidden_act(spec)


def _olmo3(config: Config) -> ModelSpec:
    """Return the shape of an OLMo-2 with windows in three of four layers, which have rotary tables
    of their own."""
    hybrid = windows(config, config.window(4096), full_every=4)
    return _olmo2(config, "olmo3", local_rotary=True, hybrid=hybrid)


def _olmo3_keys(spec: ModelSpec) -> dict[str, Any]:
    return _olmo2_keys(spec) | layer_types(spec) | {"sliding_window": spec.sliding_window}


def _exaone4(config: Config) -> ModelSpec:
    """Return the shape; where it has windows, the layers without one do not turn queries and
    keys."""
    hybrid = windows(config, config.window(4096), full_every=4)
    return decoder(
        config,
        "exaone4",
        key_value_heads=32,
        norms="after",
        qk_norm="heads",
        unrotated_every=hybrid.get("full_attention_every"),
        **hybrid,
    )


def _exaone4_keys(spec: ModelSpec) -> dict[str, Any]:
    return hidden_act(spec) | layer_types(spec) | {"sliding_window": spec.sliding_window}


ARCHITECTURES: Mapping[str, Architecture] = {
    "exaone4": Architecture(
        native_class="Exaone4ForCausalLM", read=_exaone4, written=_exaone4_keys
    ),
    "olmo2": Architecture(native_class="Olmo2ForCausalLM", read=_olmo2, written=_olmo2_keys),
    "olmo3": Architecture(native_class="Olmo3ForCausalLM", read=_olmo3, written=_olmo3_keys),
}
