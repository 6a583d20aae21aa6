"""Which layers have a sliding window: a rule of the class, or a list in the file."""

from typing import Any, TypedDict

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Config
from planner.models.model_spec import ModelSpec

SLIDING, FULL = "sliding_attention", "full_attention"


class Windows(TypedDict, total=False):
    """Fields of :class:`ModelSpec`."""

    sliding_window: int | None
    full_attention_every: int | None
    full_attention_first: int


def windows(
    config: Config, window: int | None, *, full_every: int | None = None, full_first: int = 0
) -> Windows:
    """Return the layers' windows as ``layer_types`` states them, or by the class's rule without
    such a list."""
    count = config.integer("num_hidden_layers")
    types = config.listed("layer_types", count)
    if types is None:
        types = [
            FULL if number <= full_first or (full_every and number % full_every == 0) else SLIDING
            for number in range(1, count + 1)
        ]
    if window is None or SLIDING not in types:
        return {}
    full = [number for number, kind in enumerate(types, 1) if kind == FULL]
    if full == list(range(1, len(full) + 1)) and set(types) <= {SLIDING, FULL}:
        return {"sliding_window": window, "full_attention_first": len(full)}
    every = full[0] if full else 0
    if types != [SLIDING if number % every else FULL for number in range(1, count + 1)]:
        raise config.no_formulas("layer_types", Phrase("such an order of windows"))
    return {"sliding_window": window, "full_attention_every": every}


def layer_types(spec: ModelSpec) -> dict[str, Any]:
    """Return the list that transformers makes of a rule."""
    return {
        "layer_types": [FULL if kind.sliding_window is None else SLIDING for kind in spec.layers]
    }
