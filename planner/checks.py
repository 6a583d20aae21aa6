"""From an annotation to its check: strict, so that nothing is converted without a word.

What fields may be: ``str``, ``int``, ``float``, ``bool``, ``Any``, ``Literal``, ``X | None`` and
other unions, ``tuple[X, ...]``, ``list[X]``, ``dict[K, V]``, a class that reads a mapping itself
(planner/checked.py), and any other class, of which an instance is taken as it is.
"""

import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

Location = tuple[int | str, ...]
ProblemKind = Literal["missing", "unknown", "value", "contradiction"]


class Problem(NamedTuple):
    """What is wrong with a value, and where it is in the mapping that was read."""

    location: Location
    kind: ProblemKind
    reason: str
    given: object = None
    """The value itself, where its kind or size is wrong."""

    @property
    def key(self) -> str:
        return ".".join(map(str, self.location))

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.location else self.reason


class Limits(NamedTuple):
    """What a number or a text must keep to."""

    ge: float | None = None
    gt: float | None = None
    lt: float | None = None
    pattern: str | None = None


Check = Callable[[Any, Location, list[Problem]], Any]
"""The value as it is kept; what is wrong with it is added to the problems."""

WORDS = {int: "integer", float: "number", bool: "boolean", str: "string"}


NO_LIMITS = Limits()


def check_of(annotation: Any, scope: Mapping[str, Any], limits: Limits = NO_LIMITS) -> Check:
    """The check of one annotation; ``scope`` has the classes that it names as text."""
    if isinstance(annotation, str):
        annotation = scope[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return lambda value, _at, _problems: value
    if origin is Literal:
        return _one_of(arguments)
    if origin in (Union, UnionType):
        return _any_of(arguments, scope, limits)
    if origin in (tuple, list):
        return _sequence(origin, check_of(arguments[0], scope))
    if origin is dict:
        return _mapping(*(check_of(each, scope) for each in arguments))
    if annotation in WORDS:
        return _limited(_of_kind(annotation), limits)
    read: Check | None = getattr(annotation, "as_field", None)
    return _instance(annotation) if read is None else read


def _wrong(problems: list[Problem], at: Location, should: str, value: object) -> object:
    problems.append(Problem(at, "value", f"it should be {should}", value))
    return value


def _of_kind(kind: type) -> Check:
    """Exactly that kind: ``True`` is no number, but a whole number is a number."""
    should = f"a valid {WORDS[kind]}"

    def check(value: Any, at: Location, problems: list[Problem]) -> Any:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        return _wrong(problems, at, should, value)

    return check


def _limited(check: Check, limits: Limits) -> Check:
    if limits == NO_LIMITS:
        return check

    def limited(value: Any, at: Location, problems: list[Problem]) -> Any:
        before = len(problems)
        value = check(value, at, problems)
        if len(problems) == before:
            should = _exceeded(value, limits)
            if should is not None:
                _wrong(problems, at, should, value)
        return value

    return limited


def _exceeded(value: Any, limits: Limits) -> str | None:
    if limits.ge is not None and not value >= limits.ge:
        return f"greater than or equal to {limits.ge}"
    if limits.gt is not None and not value > limits.gt:
        return f"greater than {limits.gt}"
    if limits.lt is not None and not value < limits.lt:
        return f"less than {limits.lt}"
    if limits.pattern is not None and not re.search(limits.pattern, value):
        return f"text that matches {limits.pattern!r}"
    return None


def _one_of(choices: tuple[Any, ...]) -> Check:
    *others, last = map(repr, choices)
    should = f"{', '.join(others)} or {last}" if others else last
    known = {(type(choice), choice) for choice in choices}

    def check(value: Any, at: Location, problems: list[Problem]) -> Any:
        if isinstance(value, str | int) and (type(value), value) in known:
            return value
        return _wrong(problems, at, should, value)

    return check


def _any_of(kinds: tuple[Any, ...], scope: Mapping[str, Any], limits: Limits) -> Check:
    """The first that takes the value; nothing is one of them where ``None`` is named."""
    optional = NoneType in kinds
    checks = [check_of(kind, scope, limits) for kind in kinds if kind is not NoneType]
    only = checks[0] if len(checks) == 1 else None

    def check(value: Any, at: Location, problems: list[Problem]) -> Any:
        if value is None and optional:
            return None
        if only is not None:
            return only(value, at, problems)
        reasons = []
        for each in checks:
            found: list[Problem] = []
            kept = each(value, at, found)
            if not found:
                return kept
            reasons.append(found[0].reason.removeprefix("it should be "))
        return _wrong(problems, at, " or ".join(reasons), value)

    return check


def _sequence(kind: type, item: Check) -> Check:
    def check(value: Any, at: Location, problems: list[Problem]) -> Any:
        if not isinstance(value, list | tuple):
            return _wrong(problems, at, "a list", value)
        return kind([item(each, (*at, number), problems) for number, each in enumerate(value)])

    return check


def _mapping(of_key: Check, of_value: Check) -> Check:
    def check(value: Any, at: Location, problems: list[Problem]) -> Any:
        if not isinstance(value, dict):
            return _wrong(problems, at, "a mapping", value)
        return {
            of_key(key, (*at, key), problems): of_value(each, (*at, key), problems)
            for key, each in value.items()
        }

    return check


def _instance(kind: type) -> Check:
    def check(value: Any, at: Location, problems: list[Problem]) -> Any:
        if isinstance(value, kind):
            return value
        return _wrong(problems, at, f"a {kind.__name__}", value)

    return check
