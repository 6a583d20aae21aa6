"""The keys of a file as tables, from the type that reads it and the docstrings in its source."""

from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from msgspec import NODEFAULT, Meta, Struct, structs

from planner.base.strict_yaml import Spec
from planner.plan.data_section import FieldNames
from planner.plan.file_schema import class_description, key_descriptions, section_of

WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}


def key_tables(kind: type[Spec], title: str) -> str:
    """Return a table of the keys of a type, then one for each type of a section below it, but for
    ``FieldNames``, whose keys all mean the same."""
    return "\n\n".join(_tables(kind, title))


def key_table(kind: type[Spec]) -> str:
    """Return the table of a type's own keys: their type, default and meaning."""
    described = key_descriptions(kind)
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for field in structs.fields(kind):
        cells = (
            f"`{field.name}`",
            _type_words(field.type),
            _default_words(field),
            described[field.name].replace("|", r"\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _tables(kind: type[Spec], title: str) -> Iterator[str]:
    yield f"### {title}" if title else ""
    yield class_description(kind).replace("|", r"\|")
    yield key_table(kind)
    for field in structs.fields(kind):
        section = section_of(field.type)
        if section not in (None, FieldNames):
            yield from _tables(section, f"{title}.{field.name}".removeprefix("plan.yaml."))


def _type_words(kind: Any) -> str:
    """Return what a value is, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _bounded(kind)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (tuple, list):
        return f"list of: {_type_words(arguments[0])}"
    if origin is dict or kind is dict:
        return "keys with values"
    if NoneType in arguments:
        others = " or ".join(_type_words(each) for each in arguments if each is not NoneType)
        return f"{others}, or null"
    if arguments:
        return " or ".join(_type_words(each) for each in arguments)
    return "section" if section_of(kind) is not None else WORDS.get(kind, "text")


def _bounded(kind: Any) -> str:
    words = _type_words(kind.__origin__)
    meta = next(each for each in kind.__metadata__ if isinstance(each, Meta))
    signs = {"ge": "at least", "gt": "more than", "lt": "less than"}
    bounds = [
        f"{sign} {getattr(meta, name)}"
        for name, sign in signs.items()
        if getattr(meta, name) is not None
    ]
    return ", ".join([words, *bounds])


def _default_words(field: structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is NODEFAULT:
        return "empty"
    if field.default is None:
        return "null"
    if isinstance(field.default, Struct) or field.default in ((), ""):
        return "empty"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
