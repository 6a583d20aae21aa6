"""``plan.yaml`` as text: written for people, and never over a person's edits."""

import shlex
from pathlib import Path

from msgspec import to_builtins

from planner.base.output_file import OutputFile, digest
from planner.base.phrases import Phrase
from planner.base.printable import shown
from planner.base.strict_yaml import dump_yaml
from planner.plan.schema import Plan

PLAN_FILE = Path("plan.yaml")
"""Path of a plan where none is named."""
DIGEST_MARK = "# digest: "
SCHEMA_FILE = "tuneplan-plan.schema.json"
"""Name of the schema's file: a plan that is written beside it tells editors of it."""
SCHEMA_MARK = "# yaml-language-server: $schema="
"""read: README.md of redhat-developer/yaml-language-server, "Using inlined schema"."""


def render(plan: Plan, *, command: str, file: Path | None) -> str:
    """Return the file's text: a header of comments, then a paragraph for every key.

    ``command`` made the plan, and ``file`` is the path it is written to; None if it is printed.
    """
    content = to_builtins(plan)
    paragraphs = [dump_yaml({key: value}) for key, value in content.items()]
    body = "\n".join(_joined(paragraphs))
    next_command = launch_command(plan, file or PLAN_FILE)
    header = [
        f"{plan.model.name} by {plan.method} on {_machine(plan)}",
        f"made by: {command}",
        f"run it:  {f'save it as {PLAN_FILE}, then ' if file is None else ''}{next_command}",
    ]
    lines = [f"# {shown(' '.join(line.splitlines()))}" for line in header]
    if file is not None and _has_schema(file.parent):
        lines.insert(0, SCHEMA_MARK + SCHEMA_FILE)
    return "\n".join([*lines, f"{DIGEST_MARK}{digest(body)}"]) + "\n\n" + body


def _has_schema(folder: Path) -> bool:
    try:
        return (folder / SCHEMA_FILE).is_file()
    except OSError:  # the error of a folder is told when the plan is written
        return False


def launch_command(plan: Plan, file: Path) -> str:
    """Return the command that runs the plan in ``file``, to type in a shell."""
    return " ".join(["launch", shlex.quote(str(file)), *_launch_options(plan)])


def _launch_options(plan: Plan) -> list[str]:
    """Return the options that a launch needs because the plan leaves them open."""
    return [
        *([] if plan.data.every_source else ["--data FILE"]),
        *(["--rdzv-endpoint HOST"] if plan.parallel.num_nodes > 1 else []),
    ]


def _joined(paragraphs: list[str]) -> list[str]:
    """Return the lines with an empty one around every section; single keys stand together."""
    lines: list[str] = []
    for paragraph in paragraphs:
        section = paragraph.count("\n") > 1
        if lines and (section or lines[-1] == ""):
            lines.append("") if lines[-1] != "" else None
        lines.append(paragraph.rstrip("\n"))
        if section:
            lines.append("")
    return [*lines[:-1], ""] if lines[-1] == "" else [*lines, ""]


def _machine(plan: Plan) -> str:
    count = plan.parallel.world_size
    return f"{count} x {plan.hardware.device_name}" if count > 1 else plan.hardware.device_name


def is_untouched(text: str) -> bool:
    """Return whether a text is a plan exactly as it was written."""
    header, _, body = text.partition("\n\n")
    marks = [line for line in header.splitlines() if line.startswith(DIGEST_MARK)]
    return bool(marks) and marks[0] == DIGEST_MARK + digest(body)


def plan_output(path: Path, *, force: bool) -> OutputFile:
    """Return the file of ``-o``, in which only an unedited plan is replaced unless forced."""
    return OutputFile(
        option="-o", path=path, noun=Phrase("a plan"), is_untouched=is_untouched, force=force
    )
