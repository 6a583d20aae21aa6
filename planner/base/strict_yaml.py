"""The one way a YAML file becomes an object, and plain data a YAML file."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

from msgspec import Meta, Struct, StructMeta, ValidationError, convert, field
from msgspec.structs import fields

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.base.pyyaml import yaml
from planner.base.text_files import read_text
from planner.base.units import LARGEST, MOST
from planner.base.yaml_bounds import check_aliases, check_depth

PositiveInt = Annotated[int, Meta(ge=1, le=MOST)]
NonNegativeInt = Annotated[int, Meta(ge=0, le=MOST)]
PositiveFloat = Annotated[float, Meta(gt=0, le=LARGEST)]
NonNegativeFloat = Annotated[float, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, lt=1)]
"""A share of a whole, never all of it."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's safe loader where it is built, reading ``2e-4`` as a number, as YAML 1.2 does."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's safe dumper where it is built, quoting a text such as ``2e4``, which the loader
    would read as a number."""


class _DuplicateKeyError(Exception):
    """A key that is given twice, of which YAML itself keeps the last."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key = key
        self.line = line


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(
                problem=Phrase("a key is a text"), problem_mark=key_node.start_mark
            )
        if key_node.value in seen:
            raise _DuplicateKeyError(key_node.value, key_node.start_mark.line + 1)
        seen.add(key_node.value)
    content: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return content


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_SCIENTIFIC = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")
"""A whole scalar, since PyYAML looks at its beginning: the commit ``0e6d3e4`` is a text."""
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))


class _ByName(StructMeta):
    """A metaclass that makes ``kw_only`` hold for subclasses, too; msgspec's holds for one
    class."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> Any:
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **options})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Spec(Struct, metaclass=_ByName, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """The content of a YAML file: immutable, without unknown keys or silent conversions.

    Strictness matters: YAML 1.1 reads ``no`` as false and ``1:30`` as 90, so a lenient reader would
    plan with something the author did not write. Only what is read is checked: a value made by name
    is as its author made it, but for ``__post_init__``.
    """

    noun: ClassVar[str] = ""
    """What a file of this kind is called; empty for what users write no files of."""


SpecT = TypeVar("SpecT", bound=Spec)


def read_spec(kind: type[SpecT], path: Path) -> SpecT:
    """Return the object in a YAML file.

    Raises InvalidFileError with file, line, key and reason.
    """
    text = read_text(path)
    return parse_spec(kind, text, path)


def parse_spec(kind: type[SpecT], text: str, path: Path) -> SpecT:
    """Return the object in a text; ``path`` is for messages only.

    Raises InvalidFileError as :func:`read_spec` does.
    """
    content = parse_yaml(text, path)
    try:
        if isinstance(content, dict):
            return convert(content, kind)
    except ValidationError as error:
        other = _of_another_kind(kind, content)
        if other is not None:
            raise InvalidFileError(path, None, other) from error
        # Only a mistake waits for its words.
        from planner.base.validation_messages import problem_of

        problem = problem_of(error, kind, content)
        raise InvalidFileError(path, _line_of(text, problem.location), problem.text) from error
    raise InvalidFileError(path, 1, _without_keys(content))


def _without_keys(content: object) -> str:
    """Return what a file holds that is no mapping."""
    from planner.base.validation_messages import described

    there = Phrase("is empty")
    if content is not None:
        there = Phrase("holds {content}", content=described(content))
    return Phrase("{there} where keys are expected", there=there)


MOST_KEYS_NAMED = 4
"""Most keys that a sentence about a file of another kind names."""


def _of_another_kind(kind: type[Spec], content: dict[Any, Any]) -> str | None:
    """Return why a file is not of a kind at all; None for one of it, which may have mistakes.

    It is of another kind if it has unknown keys, and lacks most of those that are required.
    """
    if not kind.noun:
        return None
    known = {each.name: each.required for each in fields(kind)}
    needed = [name for name, required in known.items() if required]
    lacking = [name for name in needed if name not in content]
    unknown = [str(key) for key in content if key not in known]
    if not unknown or 2 * len(lacking) <= len(needed):
        return None
    return Phrase(
        "this file is not {noun}: it lacks {lacking}, and has unknown keys: {unknown}",
        noun=kind.noun,
        lacking=_some(lacking),
        unknown=_some(unknown),
    )


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > MOST_KEYS_NAMED else ""
    return ", ".join(names[:MOST_KEYS_NAMED]) + more


def parse_yaml(text: str, path: Path) -> Any:
    """Return the plain data in a text; ``path`` is for messages only.

    Raises InvalidFileError where it is not YAML, has a key twice, or asks for too much.
    """
    check_depth(text, path)
    try:
        check_aliases(text, path, _Loader)
        return yaml.load(text, Loader=_Loader)
    except _DuplicateKeyError as error:
        raise InvalidFileError(
            path, error.line, Phrase("the key {key!r} is given twice", key=error.key)
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or Phrase("cannot be parsed")
        raise InvalidFileError(
            path, mark.line + 1 if mark else None, Phrase("not YAML: {reason}", reason=reason)
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        reason = " ".join(str(error).partition(";")[0].split())
        raise InvalidFileError(path, None, Phrase("not YAML: {reason}", reason=reason)) from error


def dump_yaml(content: dict[str, Any]) -> str:
    """Return plain data as a text that :func:`parse_yaml` reads back equal, keys in their order."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _line_of(text: str, location: tuple[int | str, ...]) -> int | None:
    """Return the line of the deepest key of ``location`` that the text holds; None without any."""
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
