"""The keys in which plans differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from planner.plan.schema import Plan

CONSEQUENCES = ("prediction", "fallbacks")
"""Sections that follow from the others."""


def plan_differences(plans: Sequence[Plan]) -> dict[str, tuple[Any, ...]]:
    """Return the settings in which plans differ by dotted key, with the value in each plan.

    What follows from the settings is left out: predictions, fallbacks, the model's shape.
    """
    return differing_keys([_settings(plan) for plan in plans])


def differing_keys(contents: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the values that are not the same in all of the plain data, by dotted key.

    A key that is left out has the value None, as has every key of a section that is left out.

    >>> differing_keys([{"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}}])
    {'b.c': (2, 4)}
    """
    return dict(_differing(contents, ""))


def _differing(
    contents: Sequence[Mapping[str, Any]], prefix: str
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    names = dict.fromkeys(name for content in contents for name in content)
    for name in names:
        values = tuple(content.get(name) for content in contents)
        is_section = any(isinstance(value, dict) for value in values)
        if is_section and all(value is None or isinstance(value, dict) for value in values):
            yield from _differing([value or {} for value in values], f"{prefix}{name}.")
        elif any(value != values[0] for value in values):
            yield f"{prefix}{name}", values


def _settings(plan: Plan) -> dict[str, Any]:
    content = to_builtins(plan)
    del content["model"]["config"]
    return {name: value for name, value in content.items() if name not in CONSEQUENCES}
