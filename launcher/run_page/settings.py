"""The settings of a plan, a line for each key. No function has side effects."""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import to_builtins

from planner.page.side_by_side import in_words
from planner.plan.schema import Plan

LEFT_OUT = {"prediction", "fallbacks", "schema_version"}
"""Sections that follow from the settings, or that a page shows otherwise."""
SHAPE = "model.config"
"""Key of the model's shape, which has a hundred keys of its own."""
EMPTY: tuple[Any, ...] = (None, (), [], {})
"""Values that say nothing."""


def settings_of(plan: Plan) -> dict[str, str]:
    """Return the values of a plan by dotted key."""
    content = {key: value for key, value in to_builtins(plan).items() if key not in LEFT_OUT}
    return dict(_flat(content))


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        key = f"{before}{name}"
        if key == SHAPE:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{key}.")
        elif value not in EMPTY:
            yield key, in_words(value)
