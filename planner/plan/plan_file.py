"""``plan.yaml`` as text: written for people, and never over a person's edits."""

from pathlib import Path

import yaml
from msgspec import to_builtins

from planner.base.output_file import OutputFile, digest
from planner.plan.schema import Plan

DIGEST_MARK = "# digest: "

_Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def render(plan: Plan, *, command: str) -> str:
    """The file's text: a header of comments, then a paragraph for each key."""
    content = to_builtins(plan)
    paragraphs = [
        yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        for key, value in content.items()
    ]
    body = "\n".join(_joined(paragraphs))
    header = [
        f"# {plan.model.name} by {plan.method} on {_machine(plan)}",
        f"# made by: {command}",
        f"# run it:  {' '.join(['launch plan.yaml', *launch_options(plan)])}",
        f"{DIGEST_MARK}{digest(body)}",
    ]
    return "\n".join(header) + "\n\n" + body


def launch_options(plan: Plan) -> list[str]:
    """What a launch has to be told beside the plan."""
    return [
        *([] if plan.data.every_source else ["--data FILE"]),
        *(["--rdzv-endpoint HOST"] if plan.parallel.num_nodes > 1 else []),
    ]


def _joined(paragraphs: list[str]) -> list[str]:
    """Sections stand apart, single keys together."""
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
    """Whether the text is a plan exactly as it was written."""
    header, _, body = text.partition("\n\n")
    marks = [line for line in header.splitlines() if line.startswith(DIGEST_MARK)]
    return bool(marks) and marks[0] == DIGEST_MARK + digest(body)


def plan_output(path: Path, *, force: bool) -> OutputFile:
    return OutputFile(option="-o", path=path, noun="a plan", is_untouched=is_untouched, force=force)
