"""Private parts of peft: how its layers know a packed matrix and make it whole, which names it
gives to what it adds, and which it takes for something else.

read: peft 0.21.2.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import dora
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.integrations import dequantize_module_weight
from peft.utils.transformers_weight_conversion import (
    _MODEL_TO_CONVERSION_PATTERN,
    _MOE_TARGET_MODULE_MAPPING,
)

from launcher.compat.replacement import Replacement, replaced

ADAPTER = "default"
"""peft's name of a model's only adapter."""
ADAPTER_MODULES = (".lora_", ".vera_")
"""Parts of the names of modules that it adds to a layer."""
Dequantize = Callable[[Any], Any]


def is_of_adapter(name: str) -> bool:
    """Return whether a module or parameter of this name is one that peft added to a layer."""
    return any(part in name for part in ADAPTER_MODULES)


def dora_dequantizes(dequantize: Dequantize) -> AbstractContextManager[None]:
    """Have DoRA ask ``dequantize`` for a module's whole weight before it asks peft.

    peft knows a packed weight by its type. ``dequantize`` returns None for a module that is
    peft's to make whole.
    """

    def whole(module: Any) -> Any:
        weight = dequantize(module)
        return dequantize_module_weight(module) if weight is None else weight

    return replaced([Replacement(dora, "dequantize_module_weight", whole)])


def mark_packed(model: Any, *, in_4bit: bool, in_8bit: bool) -> None:
    """Mark a model as loaded in 4 or 8 bit.

    read: peft/tuners/lora/model.py, LoraModel._create_and_replace.
    """
    model.is_loaded_in_4bit = in_4bit
    model.is_loaded_in_8bit = in_8bit


def unadaptable_names(model: Any, names: Iterable[str]) -> list[str]:
    """Return the names that peft takes for a model's fused experts and router, whether a matrix has
    them or not, since ``all-linear`` means them too; then those of ``names`` that it refuses, or
    that it adapts as if they multiplied with their weight alone.

    read: peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe;
    peft/tuners/tuners_utils.py, _check_lora_target_modules_mamba; and peft/tuners/lora/layer.py,
    Linear.forward, which adds to what a module returns the product of its own two matrices.
    """
    pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    renamed = _MOE_TARGET_MODULE_MAPPING.get(pattern or "", {})
    special = {
        path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not _is_product(module)
    }
    refused = (name for name in names if name in special or _is_refused(model, name))
    return [*renamed, *(name for name in refused if name not in renamed)]


def _is_product(module: torch.nn.Linear) -> bool:
    """Return whether a module on the meta device makes one vector of one, as a matrix does."""
    if type(module).forward is torch.nn.Linear.forward:
        return True
    vector = torch.empty(1, 1, module.in_features, dtype=module.weight.dtype, device="meta")
    try:
        product = module(vector)
    except (RuntimeError, ValueError):  # it wants another shape
        return False
    return isinstance(product, torch.Tensor) and product.shape == (1, 1, module.out_features)


def _is_refused(model: Any, name: str) -> bool:
    try:
        _check_lora_target_modules_mamba(LoraConfig(), model, name)
    except ValueError:
        return True
    return False
