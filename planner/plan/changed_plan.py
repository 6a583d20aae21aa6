"""A plan with keys changed as ``--set KEY=VALUE`` says, read by the same strict schema."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.phrases import Joined, Phrase
from planner.base.strict_yaml import dump_yaml, parse_spec, parse_yaml
from planner.plan.schema import Plan

_CHANGED = Path("settings")
_LENGTHS = {"training.max_steps": "epochs", "training.epochs": "max_steps"}
"""Key that is unset by setting another: a plan has one length."""


def parsed_setting(setting: str) -> tuple[str, Any]:
    """Return the key and the value of ``KEY=VALUE``; raise InvalidRequestError for another text."""
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise InvalidRequestError(
            Phrase(
                "--set {setting}: write KEY=VALUE, for example --set training.max_steps=12",
                setting=setting,
            )
        )
    try:
        return key, parse_yaml(value, _CHANGED)
    except InvalidFileError as error:
        raise InvalidRequestError(
            Phrase("--set {setting}: the value is {reason}", setting=setting, reason=error.reason)
        ) from error


def changed_plan(
    content: dict[str, Any], changes: Mapping[str, Any], settings: Sequence[str]
) -> Plan:
    """Return the plan of plain data, which is changed by dotted key.

    Raises InvalidRequestError, which repeats the ``settings`` as they were typed, if no plan has
    such keys or values.
    """
    for key, value in changes.items():
        _set(content, key, value)
        if key in _LENGTHS and f"training.{_LENGTHS[key]}" not in changes:
            _set(content, f"training.{_LENGTHS[key]}", None)
    try:
        return parse_spec(Plan, dump_yaml(content), _CHANGED)
    except InvalidFileError as error:
        options = " ".join(f"--set {setting}" for setting in settings)
        raise InvalidRequestError(Joined(": ", [options, error.reason])) from error


def _set(content: dict[str, Any], dotted_key: str, value: Any) -> None:
    *sections, last = dotted_key.split(".")
    for name in sections:
        if not isinstance(content.get(name), dict):
            content[name] = {}
        content = content[name]
    content[last] = value
