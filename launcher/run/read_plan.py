"""``plan.yaml`` with the changes of the command line, both read by the same strict schema."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.strict_yaml import dump_yaml, parse_spec, parse_yaml
from planner.base.text_files import read_text
from planner.plan.data_section import DataErrors, DataSection
from planner.plan.schema import Plan

_CHANGED = Path("settings")
_LENGTHS = {"training.max_steps": "epochs", "training.epochs": "max_steps"}
"""Key that is unset by setting another: a plan has one length."""


def read_plan(
    path: Path,
    *,
    settings: Sequence[str] = (),
    data: str | None = None,
    data_errors: DataErrors | None = None,
    output: Path | None = None,
) -> Plan:
    """Return the plan in ``path`` with ``KEY=VALUE`` settings, data and run directory put in.

    Raise ``InvalidFileError`` for the file, and ``InvalidRequestError`` for a setting.
    """
    text = read_text(path)
    plan = parse_spec(Plan, text, path)
    changes = {
        **dict(_parse_setting(setting) for setting in settings),
        **_data_changes(data, data_errors),
        **({} if output is None else {"output.directory": str(output)}),
    }
    if not changes:
        return plan
    content = parse_yaml(text, path)
    for key, value in changes.items():
        _set(content, key, value)
        if key in _LENGTHS and f"training.{_LENGTHS[key]}" not in changes:
            _set(content, f"training.{_LENGTHS[key]}", None)
    try:
        return parse_spec(Plan, dump_yaml(content), _CHANGED)
    except InvalidFileError as error:
        options = " ".join(f"--set {setting}" for setting in settings)
        raise InvalidRequestError(f"{options}: {error.reason}") from error


def _data_changes(data: str | None, errors: DataErrors | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if data is not None:
        named = to_builtins(DataSection().reading(data))
        changes = {f"data.{key}": named[key] for key in ("source", "sources")}
    return changes if errors is None else {**changes, "data.errors": errors}


def plan_text(plan: Plan) -> str:
    """Return the text of a plan's file, without its header."""
    return dump_yaml(to_builtins(plan))


def _parse_setting(setting: str) -> tuple[str, Any]:
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


def _set(content: dict[str, Any], dotted_key: str, value: Any) -> None:
    *sections, last = dotted_key.split(".")
    for name in sections:
        if not isinstance(content.get(name), dict):
            content[name] = {}
        content = content[name]
    content[last] = value
