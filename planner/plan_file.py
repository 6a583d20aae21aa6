"""``plan.yaml`` as text: written for people, and never over a person's edits."""

import zlib
from pathlib import Path

import yaml

from planner.errors import InvalidRequestError, UnwritableError
from planner.plan import Plan

DIGEST_MARK = "# digest: "

_Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def render(plan: Plan, *, command: str) -> str:
    """The file's text: a header of comments, then a paragraph for each key."""
    content = plan.model_dump(mode="json")
    paragraphs = [
        yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        for key, value in content.items()
    ]
    body = "\n".join(_joined(paragraphs))
    header = [
        f"# {plan.model.name} by {plan.method} on {_machine(plan)}",
        f"# made by: {command}",
        f"# run it:  launch plan.yaml{'' if plan.data.every_source else ' --data FILE'}",
        f"{DIGEST_MARK}{_digest(body)}",
    ]
    return "\n".join(header) + "\n\n" + body


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


def _digest(body: str) -> str:
    """Enough to tell an edit, and quicker to import than a cryptographic one."""
    return f"{zlib.crc32(body.encode()):08x}"


def is_untouched(text: str) -> bool:
    """Whether the text is a plan exactly as it was written."""
    header, _, body = text.partition("\n\n")
    marks = [line for line in header.splitlines() if line.startswith(DIGEST_MARK)]
    return bool(marks) and marks[0] == DIGEST_MARK + _digest(body)


def write(text: str, path: Path, *, force: bool) -> None:
    """Whole or not at all; an existing file goes only if nobody edited it, or by force."""
    if path.is_dir():
        raise InvalidRequestError(f"-o {path} is a directory: name a file, such as plan.yaml")
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists() and not force and not is_untouched(path.read_text(encoding="utf-8")):
            raise InvalidRequestError(
                f"{path} was edited since it was written, or is not a plan: "
                "choose another file with -o, or replace it with --force"
            )
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is not a plan: choose another file with -o") from error
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UnwritableError(path, error) from error
