"""What msgspec found wrong with a file's content, in words and with the value or the choices.

read: msgspec 0.22.0, src/msgspec/_core.c. It names one problem, as a message and where it was
found: ``Expected `int`, got `str` - at `$.fallbacks[0].strategy```. It does not distinguish the
keys of a mapping: ``$.phases[...]``.
"""

import re
from types import EllipsisType
from typing import Any

from msgspec import Struct, ValidationError, inspect

from planner.base.errors import did_you_mean
from planner.base.phrases import Joined, Phrase

Location = tuple[int | str, ...]
"""Keys, and positions in lists; ``*`` is any key of a mapping."""

WORDS = {
    "object": Phrase("a mapping"),
    "array": Phrase("a list"),
    "null": "null",
    "str": Phrase("a text"),
    "int": Phrase("a whole number"),
    "float": Phrase("a number"),
    "bool": Phrase("true or false"),
}
_MESSAGE = re.compile(r"(.*?)(?: - at `(key` in `)?\$([^`]*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`")
_UNKNOWN_CHOICE = "Invalid enum value "


class Problem(Struct, frozen=True):
    """What is wrong with a file: where, and in words."""

    location: Location
    text: str
    """The sentence, with the key."""


def problem_of(error: ValidationError, kind: type[Struct], content: object) -> Problem:
    """Return what is wrong, from the error that ``convert(content, kind)`` raised."""
    match = _MESSAGE.fullmatch(str(error))
    of_ours = error.__cause__.args[0] if isinstance(error.__cause__, ValueError) else None
    assert match is not None, "every text matches"
    message, of_key, path = match.groups(default="")
    steps = re.findall(r"\w+|\*", path.replace("[...]", ".*"))
    location: Location = tuple(int(step) if step.isdecimal() else step for step in steps)
    types = _types_at(kind, location)
    if match := _FIELD.fullmatch(message):
        what, name = match.groups()
        place = (*location, name)
        if what == "missing required":
            return Problem(place, _missing(types, location, _value_at(content, location), name))
        known = [each.name for struct in types for each in _fields(struct)]
        unknown = Phrase("unknown key {key!r}", key=_dotted(place))
        return Problem(place, Joined(". ", [unknown, did_you_mean(name, known)]))
    if isinstance(of_ours, Phrase):
        reason: str = of_ours
    elif of_key:
        reason = _expected(message, _key_types(types), ..., key=True)
    else:
        reason = _expected(message, types, _value_at(content, location))
    return Problem(location, Joined(": ", [_dotted(location), reason]) if location else reason)


def _missing(types: list[inspect.Type], location: Location, content: object, name: str) -> str:
    """Return which keys are missing beside the one that msgspec names, the first."""
    lacking = [name]
    if isinstance(content, dict):
        required = [each.name for struct in types for each in _fields(struct) if each.required]
        lacking += [each for each in required if each not in content]
    names = [_dotted((*location, each)) for each in dict.fromkeys(lacking)]
    words = Phrase("this key is missing") if len(names) == 1 else Phrase("these keys are missing")
    return Joined(": ", [Joined(", ", names), words])


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _expected(message: str, types: list[inspect.Type], value: object, *, key: bool = False) -> str:
    """Return the expected and the actual type in words; a message of our own unchanged."""
    if message.startswith(_UNKNOWN_CHOICE):
        expected, given = _choices(types), _worded(message.removeprefix(_UNKNOWN_CHOICE))
    elif message.startswith("Expected "):
        wanted, _, got = message.removeprefix("Expected ").partition(", got ")
        expected, given = _worded(wanted), _worded(got)
    else:
        return message
    if not isinstance(value, dict | list | tuple | EllipsisType):
        given = described(value)
    found = Phrase(", not {given}", given=given) if given else ""
    found += _instead(types, value)
    if key:
        return Phrase("a key should be {expected}{found}", expected=expected, found=found)
    return Phrase("it should be {expected}{found}", expected=expected, found=found)


def _instead(types: list[inspect.Type], value: object) -> str:
    """Return how to write a number of the other kind that YAML reads: ``8.9`` that is meant as a
    text, ``1e12`` as a whole number."""
    kinds = {type(each) for each in types}
    if inspect.StrType in kinds and type(value) in (int, float):
        return Phrase(': write "{value}"', value=value)
    if inspect.IntType in kinds and isinstance(value, float) and value.is_integer():
        return Phrase(": write {value}", value=int(value))
    return ""


def _worded(types: str) -> str:
    """Return msgspec's names of types in words.

    >>> _worded("`int | null` >= 1")
    'a whole number or null >= 1'
    """
    outside, *quoted = re.split("`([a-z |]+)`", types)
    parts = [outside]
    for names, behind in zip(quoted[::2], quoted[1::2], strict=True):
        words = (WORDS.get(name, name) for name in names.split(" | "))
        parts += [Joined(Phrase(" or "), words), behind]
    return Joined("", parts)


def _choices(types: list[inspect.Type]) -> str:
    kinds = {inspect.IntType: WORDS["int"], inspect.VarTupleType: WORDS["array"]}
    choices = [kinds[type(each)] for each in types if type(each) in kinds]
    for each in types:
        choices += map(repr, each.values) if isinstance(each, inspect.LiteralType) else ()
    *others, last = choices or [Phrase("another value")]
    return Joined(Phrase(" or "), [Joined(", ", others), last]) if others else last


def described(value: object) -> str:
    """Return a value with its type, in words for a message."""
    if value is None:
        return "null"
    number = Phrase("the number")
    kinds = {bool: Phrase("the truth value"), int: number, float: number, str: Phrase("the text")}
    kind = kinds.get(type(value), type(value).__name__)
    return Joined(" ", [kind, repr(value)])


def _value_at(content: Any, location: Location) -> Any:
    """Return the value at a location; ``...`` where the location does not say which value."""
    try:
        for step in location:
            content = content[step]
    except (KeyError, IndexError, TypeError):
        return ...
    return content


def _types_at(kind: type[Struct], location: Location) -> list[inspect.Type]:
    """Return the types that may stand at a location."""
    types = _alternatives(inspect.type_info(kind))
    for step in location:
        types = [inner for each in types for inner in _inside(each, step)]
    return types


def _inside(kind: inspect.Type, step: int | str) -> list[inspect.Type]:
    match kind:
        case inspect.StructType(fields=fields):
            return [i for each in fields if each.name == step for i in _alternatives(each.type)]
        case inspect.DictType(value_type=inner):
            return _alternatives(inner)
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            return _alternatives(inner)
    return []


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    match kind:
        case inspect.Metadata(type=inner):
            return _alternatives(inner)
        case inspect.UnionType(types=types):
            return [inner for each in types for inner in _alternatives(each)]
    return [kind]


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def _key_types(types: list[inspect.Type]) -> list[inspect.Type]:
    mappings = [each for each in types if isinstance(each, inspect.DictType)]
    return [inner for each in mappings for inner in _alternatives(each.key_type)]
