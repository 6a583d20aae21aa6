"""Granite 3 and HunYuan: Llamas with multipliers, and with norms on turned queries and keys."""

from collections.abc import Mapping
from typing import Any

from planner.configs.keys import Architecture, Config
from planner.configs.llama import attention_bias, decoder, hidden_act
from planner.model import ModelSpec


def _granite(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", "the parameter count knows no biases in the MLP")
    bias = config.flag("attention_bias")
    return decoder(config, "granite", qkv_bias=bias, output_bias=bias, multipliers=True)


def _hunyuan(config: Config) -> ModelSpec:
    bias = config.flag("attention_bias")
    return decoder(
        config, "hunyuan_v1_dense", qkv_bias=bias, output_bias=bias, qk_norm="heads-rotated"
    )


def _keys(spec: ModelSpec) -> dict[str, Any]:
    return attention_bias(spec) | hidden_act(spec)


ARCHITECTURES: Mapping[str, Architecture] = {
    "granite": Architecture(native_class="GraniteForCausalLM", read=_granite, written=_keys),
    "hunyuan_v1_dense": Architecture(
        native_class="HunYuanDenseV1ForCausalLM", read=_hunyuan, written=_keys
    ),
}
