"""The scaling of rotary positions in the keys of a model's ``config.json``.

read: transformers/modeling_rope_utils.py at 5.23: ``rope_parameters`` holds it, and in older files
``rope_scaling``, beside ``rope_theta``.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.plan.schema import RopeScaling

UNSCALED = "default"
"""transformers' name of rotary positions without a scaling."""


def rope_type_of(config: Mapping[str, Any]) -> str:
    """Return the scaling that the keys of a ``config.json`` state, of this year's or older ones."""
    stated = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(stated, Mapping):
        return UNSCALED
    return str(stated.get("rope_type") or stated.get("type") or UNSCALED)


def scaled_config(
    config: Mapping[str, Any], scaling: RopeScaling | None, source: str
) -> dict[str, Any]:
    """Return the keys of a model's ``config.json`` with a plan's scaling; they are unchanged
    without one.

    Raises ``InvalidRequestError`` for a model that comes with another one. ``source`` is the name
    of the model in that message.
    """
    if scaling is None:
        return dict(config)
    kind = rope_type_of(config)
    if kind not in (UNSCALED, scaling.rope_type):
        raise InvalidRequestError(
            Phrase(
                "model.rope_scaling: the positions of {source} are scaled by {kind} already: plan "
                "again with --sequence-length {length} at most",
                source=source,
                kind=kind,
                length=config.get("max_position_embeddings", 0),
            )
        )
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    positions = round(scaling.factor * scaling.original_max_position_embeddings)
    return {
        **config,
        key: {**(config.get(key) or {}), **structs.asdict(scaling)},
        "max_position_embeddings": positions,
    }
