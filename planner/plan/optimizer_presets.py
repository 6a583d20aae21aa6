"""Optimizers by transformers' names, as presets/optimizers.yaml describes them."""

from functools import cache
from typing import Literal

from planner.base.errors import UnknownNameError
from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec

OptimizerLibrary = Literal["torch", "transformers", "bitsandbytes"]


class OptimizerSpec(Spec):
    """One entry of presets/optimizers.yaml, whose head says what the fields mean."""

    name: str
    library: OptimizerLibrary
    class_name: str
    step: Literal["fused", "adamw", "adafactor", "sgd"]
    states: int
    kept_in: Literal["parameter", "fp32", "8bit", "factored"]
    counter: Literal["device", "host", "none"]
    paged: bool = False
    source: str


class _Optimizers(Spec):
    optimizers: list[OptimizerSpec]


@cache
def optimizers() -> dict[str, OptimizerSpec]:
    """Return every optimizer that a plan may have, by its name."""
    entries = read_spec(_Optimizers, ROOT / "optimizers.yaml").optimizers
    return {optimizer.name: optimizer for optimizer in entries}


def optimizer_name(text: str) -> str:
    """Return the name that is spelt like this, in any case and with hyphens for underscores.

    Raises ``UnknownNameError``, which suggests the nearest one.
    """
    wanted = text.lower().replace("-", "_")
    if wanted not in optimizers():
        raise UnknownNameError(
            Phrase("optimizer"), text, optimizers(), see="plan --list optimizers"
        )
    return wanted
