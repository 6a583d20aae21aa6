"""The one way a file becomes an object."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from planner.checked import Checked, ValidationError
from planner.checks import Location, Problem
from planner.errors import InvalidFileError, did_you_mean


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's safe loader where it is built, reading ``2e-4`` as a number, as YAML 1.2 does."""


class _DuplicateKeyError(Exception):
    """YAML itself lets the last one win without a word."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key = key
        self.line = line


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.value in seen:
            raise _DuplicateKeyError(key_node.value, key_node.start_mark.line + 1)
        seen.add(key_node.value)
    content: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return content


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+"),
    list("-+0123456789"),
)


class Spec(Checked):
    """What a YAML file holds: immutable, no unknown keys, no silent conversions.

    Strictness matters: YAML 1.1 reads ``no`` as false and ``1:30`` as 90, so a lenient
    reader would plan with something the author did not write.
    """


SpecT = TypeVar("SpecT", bound=Spec)


def read_spec(kind: type[SpecT], path: Path) -> SpecT:
    """The object in a YAML file, or an error with file, line, key and reason."""
    text = read_text(path)
    return parse_spec(kind, text, path)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(path, None, "is not UTF-8 text") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidFileError(path, None, f"cannot be read ({reason})") from error


def parse_spec(kind: type[SpecT], text: str, path: Path) -> SpecT:
    """As :func:`read_spec`, for text already read; ``path`` is for messages only."""
    content = parse_yaml(text, path)
    if not isinstance(content, dict):
        raise InvalidFileError(path, 1, f"holds {_describe(content)} where keys are expected")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _first_error(kind, error.problems, text, path) from error


def parse_yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except _DuplicateKeyError as error:
        raise InvalidFileError(path, error.line, f"the key {error.key!r} is given twice") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "cannot be parsed"
        raise InvalidFileError(path, mark.line + 1 if mark else None, f"not YAML: {reason}") from (
            error
        )
    except yaml.YAMLError as error:
        raise InvalidFileError(path, None, f"not YAML: {error}") from error


def _first_error(
    kind: type[Spec], problems: list[Problem], text: str, path: Path
) -> InvalidFileError:
    # An unknown key is usually the cause of a missing one beside it: name it first.
    first = min(problems, key=lambda problem: problem.kind != "unknown")
    line = _line_of(text, first.location)
    if first.kind == "unknown":
        known = _keys_at(kind, first.location[:-1])
        hint = did_you_mean(str(first.location[-1]), known)
        return InvalidFileError(path, line, f"unknown key {first.key!r}. {hint}")
    reason = str(first)
    if first.kind == "value" and not isinstance(first.given, dict | list):
        reason = f"{reason}, not {_describe(first.given)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidFileError(path, line, f"{reason}{more}")


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    kinds = {bool: "the truth value", int: "the number", float: "the number", str: "the text"}
    return f"{kinds.get(type(value), type(value).__name__)} {value!r}"


def _keys_at(kind: type[Checked], location: Location) -> list[str]:
    """Names of the fields that are allowed in the mapping at ``location``."""
    for step in location:
        field = kind.model_fields.get(str(step))
        if field is None:
            continue
        inner = [t for t in _types_in(field.annotation) if issubclass(t, Checked)]
        if inner:
            kind = inner[0]
    return list(kind.model_fields)


def _types_in(annotation: Any) -> list[type]:
    arguments = getattr(annotation, "__args__", ())
    found = [t for argument in arguments for t in _types_in(argument)]
    return [annotation, *found] if isinstance(annotation, type) and not arguments else found


def _line_of(text: str, location: Location) -> int | None:
    """The line of the deepest key of ``location`` that the text holds."""
    node = yaml.compose(text, Loader=_Loader)
    line = node.start_mark.line + 1 if node is not None and location else None
    for step in location:
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(step)]
            if not match:
                return line
            key_node, node = match[-1]
            line = key_node.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line
