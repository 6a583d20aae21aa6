"""The JSON Schema of a file, from the type that reads it and the docstrings in its source.

A key's description is the docstring of its attribute, else that of the section it holds.
"""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any, get_args

from msgspec import Meta, json, structs

from planner.base.strict_yaml import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schema(kind: type[Spec], title: str) -> dict[str, Any]:
    """Return the schema of a type's files, with a description for every key."""
    schema = json.schema(kind)
    sections = sections_of(kind)
    for name, definition in schema["$defs"].items():
        described = key_descriptions(sections[name])
        definition["description"] = class_description(sections[name])
        for key, value in definition["properties"].items():
            value["description"] = described[key]
    return {"$schema": DIALECT, "title": title, **schema}


def key_descriptions(kind: type[Spec]) -> dict[str, str]:
    """Return what each key of a type means, as one line of Markdown; empty if nothing says so."""
    written = attribute_docstrings(kind)
    return {
        field.name: written.get(field.name)
        or _told_by_type(field.type)
        or _first_sentence(section_of(field.type))
        for field in structs.fields(kind)
    }


@cache
def attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """Return the docstring that follows each attribute of a class, as one line of Markdown."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    described = {}
    for before, after in zip(node.body, node.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                described[name] = as_markdown(text)
    return described


def class_description(kind: type[Any]) -> str:
    """Return the docstring of a class as one line of Markdown."""
    return as_markdown(inspect.getdoc(kind) or "")


def as_markdown(text: str) -> str:
    """Return a docstring as one line of Markdown.

    >>> as_markdown("Name, or\\n``cpu``.")
    'Name, or `cpu`.'
    """
    return " ".join(text.split()).replace("``", "`")


def section_of(kind: Any) -> type[Spec] | None:
    """Return the struct that a key holds, alone, in a list, or as an alternative to null."""
    if isinstance(kind, type) and issubclass(kind, Spec):
        return kind
    sections = [section_of(argument) for argument in get_args(kind)]
    return next(filter(None, sections), None)


def _told_by_type(kind: Any) -> str:
    metas = [each for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta)]
    return next((meta.description for meta in metas if meta.description), "")


def _first_sentence(section: type[Spec] | None) -> str:
    return "" if section is None else class_description(section).split(". ")[0]


def sections_of(kind: type[Spec]) -> dict[str, type[Spec]]:
    """Return a type and all types of sections below it, by name."""
    sections: dict[str, type[Spec]] = {}
    waiting = [kind]
    while waiting:
        section = waiting.pop()
        if section.__name__ not in sections:
            sections[section.__name__] = section
            below = [section_of(field.type) for field in structs.fields(section)]
            waiting += [each for each in below if each is not None]
    return sections
