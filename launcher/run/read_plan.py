"""``plan.yaml`` with the changes of the command line, both read by the same strict schema."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from planner.base.strict_yaml import dump_yaml, parse_spec, parse_yaml
from planner.base.text_files import read_text
from planner.plan.changed_plan import changed_plan, parsed_setting
from planner.plan.data_section import DataErrors, DataSection
from planner.plan.schema import Plan


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
        **dict(map(parsed_setting, settings)),
        **_data_changes(data, data_errors),
        **({} if output is None else {"output.directory": str(output)}),
    }
    if not changes:
        return plan
    return changed_plan(parse_yaml(text, path), changes, settings)


def _data_changes(data: str | None, errors: DataErrors | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if data is not None:
        named = to_builtins(DataSection().reading(data))
        changes = {f"data.{key}": named[key] for key in ("source", "sources")}
    return changes if errors is None else {**changes, "data.errors": errors}


def plan_text(plan: Plan) -> str:
    """Return the text of a plan's file, without its header."""
    return dump_yaml(to_builtins(plan))
