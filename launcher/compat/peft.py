"""Private parts of peft: how its layers know a packed matrix and make it whole.

read: peft 0.21.2.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from peft.tuners.lora import dora
from peft.utils.integrations import dequantize_module_weight

from launcher.compat.replacement import Replacement, replaced

Dequantize = Callable[[Any], Any]


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
