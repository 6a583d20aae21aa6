"""JSON Schema of a checked class, which editors complete and check a file by.

Source: JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12.
"""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from planner.checked import Checked, Declared
from planner.checks import Limits

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
PLAIN: Mapping[Any, Schema] = {
    Any: {},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    NoneType: {"type": "null"},
}
KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def json_schema(kind: type[Checked]) -> Schema:
    """With a definition for each class that is read inside."""
    definitions: dict[str, Schema] = {}
    whole = _object(kind, definitions)
    return {"$schema": DIALECT, **whole, "$defs": definitions}


def _object(kind: type[Checked], definitions: dict[str, Schema]) -> Schema:
    properties = {name: _field(each, definitions) for name, each in kind.model_fields.items()}
    return {
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        "required": [name for name, each in kind.model_fields.items() if each.required],
        "additionalProperties": False,
    }


def _field(declared: Declared, definitions: dict[str, Schema]) -> Schema:
    schema = _type(declared.annotation, declared.scope, definitions) | _limits(declared.limits)
    if not declared.required:
        default = declared.absent()
        schema["default"] = default.model_dump() if isinstance(default, Checked) else default
    return schema


def _limits(limits: Limits) -> Schema:
    found = {name: limit for name, limit in limits._asdict().items() if limit is not None}
    return {KEYWORDS.get(name, name): limit for name, limit in found.items()}


def _type(annotation: Any, scope: Mapping[str, Any], definitions: dict[str, Schema]) -> Schema:
    if isinstance(annotation, str):
        annotation = scope[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in PLAIN:
        return dict(PLAIN[annotation])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_type(each, scope, definitions) for each in arguments]}
    if origin in (tuple, list):
        return {"type": "array", "items": _type(arguments[0], scope, definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], scope, definitions)}
    name = annotation.__name__
    if name not in definitions:
        definitions[name] = {}  # a class may hold others of its own kind
        definitions[name] = _object(annotation, definitions)
    return {"$ref": f"#/$defs/{name}"}
