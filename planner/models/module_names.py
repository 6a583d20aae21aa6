"""The names of modules by architecture, where transformers does not use Llama's.

A matrix is known here by its role, which is its name in Llama: ``o_proj`` is the attention's
output, whatever its name. peft finds a matrix by the last part of its path.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from planner.plan.vocabulary import Loss


class ModuleNames(Struct, frozen=True):
    """Where one ``model_type`` keeps its layers, and its own names for the matrices in them."""

    layers: str = "model.layers"
    matrices: Mapping[str, str] = MappingProxyType({})
    """Names by role, where the two differ."""


LLAMA = ModuleNames()
_FOUR_H = {"up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h"}
_FUSED = {"qkv_proj": "query_key_value", "o_proj": "dense", **_FOUR_H}
_LFM2 = {"o_proj": "out_proj", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
NAMES: Mapping[str, ModuleNames] = {
    "bloom": ModuleNames(layers="transformer.h", matrices=_FUSED),
    "falcon": ModuleNames(layers="transformer.h", matrices=_FUSED),
    "gemma4": ModuleNames(layers="model.language_model.layers"),
    "gemma4_unified": ModuleNames(layers="model.language_model.layers"),
    "gpt2": ModuleNames(
        layers="transformer.h",
        matrices={
            "qkv_proj": "c_attn",
            "o_proj": "c_proj",
            "up_proj": "c_fc",
            "down_proj": "c_proj",
        },
    ),
    "gpt_neox": ModuleNames(layers="gpt_neox.layers", matrices=_FUSED),
    "granitemoehybrid": ModuleNames(
        matrices={"gate_up_proj": "input_linear", "down_proj": "output_linear"}
    ),
    "lfm2": ModuleNames(matrices=_LFM2),
    "lfm2_moe": ModuleNames(matrices=_LFM2),
    "mamba2": ModuleNames(layers="backbone.layers"),
    "opt": ModuleNames(
        layers="model.decoder.layers",
        matrices={"o_proj": "out_proj", "up_proj": "fc1", "down_proj": "fc2"},
    ),
    "phi": ModuleNames(matrices={"o_proj": "dense", "up_proj": "fc1", "down_proj": "fc2"}),
    "starcoder2": ModuleNames(matrices={"up_proj": "c_fc", "down_proj": "c_proj"}),
}


ONLY_ATTENTION: Mapping[str, Literal["sdpa", "eager"]] = {
    "bloom": "eager",
    "falcon": "sdpa",
    "llama4_text": "sdpa",
    "mamba2": "eager",
}
"""Architectures whose attention is planned in one way: Bloom has no other, and Mamba-2 has none,
which transformers builds as eager alone."""


WITHOUT_MLP_MODULE = frozenset({"bloom", "falcon", "falcon_h1", "nemotron_h", "opt"})
"""Types whose MLP is no module of its own that takes hidden states alone; read: transformers 5.23
models/opt/modeling_opt.py (inline), models/bloom/modeling_bloom.py (with the residual stream),
models/falcon_h1/modeling_falcon_h1.py (scaled), models/nemotron_h/modeling_nemotron_h.py (in the
place of attention)."""
ONLY_LOSS: Mapping[str, Loss] = {"llama4_text": "standard"}
"""Architectures that trl's fused head does not support: it looks for a backbone where Llama 4's
class says, which names another module (transformers 5.23, Llama4ForCausalLM.base_model_prefix)."""


def module_names(model_type: str) -> ModuleNames:
    """Return the names of an architecture; Llama's where it has no others."""
    return NAMES.get(model_type, LLAMA)
