"""The option ``--schema``: the JSON Schema of a kind of file, for editors and validators."""

import json
from pathlib import Path
from typing import Any, Literal

from planner.base.output_file import OutputFile
from planner.base.strict_yaml import Spec
from planner.hardware.cluster import GpuSpec
from planner.hardware.machine_readings import Machine
from planner.plan.schema import Plan
from planner.recipes.recipe import Recipe

SchemaKind = Literal["plan", "recipe", "card", "machine"]

KINDS: dict[SchemaKind, type[Spec]] = {
    "plan": Plan,
    "recipe": Recipe,
    "card": GpuSpec,
    "machine": Machine,
}


def show_schema(kind: SchemaKind, output: Path | None, *, force: bool) -> None:
    """Print the schema of a kind of file, or write it to the file of ``-o``."""
    text = json.dumps(schema_of(kind), indent=2) + "\n"
    if output is None or str(output) == "-":
        print(text, end="")
        return
    OutputFile(
        option="-o", path=output, noun="a schema", is_untouched=_is_schema, force=force
    ).write(text)


def schema_of(kind: SchemaKind) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file."""
    from planner.plan.file_schema import file_schema  # reads the sources: --schema alone waits

    return file_schema(KINDS[kind], f"{kind} of tuneplan")


def _is_schema(text: str) -> bool:
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and "$schema" in content
