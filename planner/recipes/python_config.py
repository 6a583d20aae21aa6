"""A configuration written in Python, read as syntax and never run."""

import ast
import operator
import reprlib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import ValidationError, convert

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.base.strict_yaml import SpecT
from planner.base.text_files import read_text
from planner.base.validation_messages import problem_of

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LARGEST = 2**64
LONGEST = 2**16
"""Numbers from ``LARGEST`` and texts from ``LONGEST`` on are not settings: to calculate with them
could fill the memory."""
INHERITS = "read_base"
"""The call by which mmengine builds one configuration on another."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A class or function that the file imports; its content is known only at run time."""

    name: str
    """The dotted name as it is written."""

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


def named(value: object) -> str | None:
    """Return the last name of a reference or text; None for None."""
    if isinstance(value, Reference):
        return value.last
    return None if value is None else str(value).rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class PythonConfig:
    """The names that a file sets at its top level, in the order of the file."""

    path: Path
    values: Mapping[str, Any]
    """Numbers, texts, tuples, lists, dictionaries and references, nested; ``dict(...)`` is a
    dictionary."""
    lines: Mapping[str, int]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a dotted key, where every step but the last is a dictionary; the
        default without one."""
        found: Any = self.values
        for step in key.split("."):
            if not isinstance(found, Mapping) or step not in found:
                return default
            found = found[step]
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number that is not negative.

        Raises InvalidFileError for any other value, as the methods below do.
        """
        found = self.get(key, default)
        plain = isinstance(found, int | float) and not isinstance(found, bool)
        if not plain or not 0 <= found < LARGEST:
            raise self.error(
                key,
                Phrase(
                    "{key} should be a number from 0 up{instead}", key=key, instead=_instead(found)
                ),
            )
        return float(found)

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number from 1 up."""
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found < LARGEST:
            raise self.error(
                key,
                Phrase(
                    "{key} should be a whole number from 1 up{instead}",
                    key=key,
                    instead=_instead(found),
                ),
            )
        return found

    def text(self, key: str) -> str:
        """Return a text."""
        found = self.get(key)
        if not isinstance(found, str):
            raise self.error(
                key, Phrase("{key} should be a text{instead}", key=key, instead=_instead(found))
            )
        return found

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return a truth value; the default where the key is left out or None."""
        found = self.get(key)
        if found is not None and not isinstance(found, bool):
            raise self.error(
                key,
                Phrase("{key} should be True or False{instead}", key=key, instead=_instead(found)),
            )
        return default if found is None else found

    def section(self, key: str) -> Mapping[str, Any] | None:
        """Return a dictionary; None where the key is left out or None."""
        found = self.get(key)
        if found is not None and not isinstance(found, Mapping):
            raise self.error(
                key,
                Phrase("{key} should be a dictionary{instead}", key=key, instead=_instead(found)),
            )
        return found

    def kind(self, key: str) -> str | None:
        """Return the name of a class or function without its module; a registry takes it as text,
        too."""
        return named(self.get(key))

    def spec(self, key: str, made: type[SpecT], /, **values: Any) -> SpecT:
        """Return the section of a recipe that these settings make.

        Raises InvalidFileError at the line of ``key``.
        """
        try:
            return convert(values, made)
        except ValidationError as error:
            raise self.error(key, problem_of(error, made, values).text) from error

    def error(self, key: str, reason: str) -> InvalidFileError:
        """Return an error with the line where the first part of ``key`` is set."""
        return InvalidFileError(self.path, self.lines.get(key.split(".")[0]), reason)


def read_python_config(path: Path) -> PythonConfig:
    """Return the names that a file sets.

    Raises InvalidFileError, with the line, for what is not Python or builds on other files.
    """
    reader = _Reader(path)
    try:
        reader.read(ast.parse(read_text(path)).body)
    except SyntaxError as error:
        raise InvalidFileError(
            path, error.lineno, Phrase("not Python: {msg}", msg=error.msg)
        ) from error
    except ValueError as error:
        raise InvalidFileError(path, None, Phrase("not Python: {error}", error=error)) from error
    except (RecursionError, MemoryError) as error:
        raise InvalidFileError(path, None, Phrase("an expression is nested too deeply")) from error
    return PythonConfig(path=path, values=reader.values, lines=reader.lines)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}
        self.lines: dict[str, int] = {}

    def read(self, statements: Iterable[ast.stmt]) -> None:
        """Read statements in order; what is not an assignment is passed over."""
        for statement in statements:
            match statement:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._assign(target, value)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._assign(target, value)
                case ast.AugAssign(target=target, op=sign, value=value):
                    self._assign(target, ast.BinOp(target, sign, value))
                case ast.If(test=test, body=body, orelse=otherwise):
                    self.read(body if self._value(test) is True else otherwise)
                case ast.With(items=items) if any(map(_inherits, items)):
                    raise InvalidFileError(
                        self._path,
                        statement.lineno,
                        Phrase(
                            "builds on other files, which can be read only by running it: give a "
                            "self-contained file"
                        ),
                    )

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.values[target.id] = self._value(value)
            self.lines[target.id] = target.lineno

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self.values.get(name, Reference(name))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._calculated(operator.neg, node, operand)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in ARITHMETIC:
                return self._calculated(ARITHMETIC[type(sign)], node, left, right)
        return self._collection(node)

    def _collection(self, node: ast.expr) -> Any:
        match node:
            case ast.Tuple(elts=items):
                return tuple(map(self._value, items))
            case ast.List(elts=items):
                return list(map(self._value, items))
            case ast.Dict(keys=keys, values=values):
                names = [None if key is None else self._value(key) for key in keys]
                return self._dictionary(node, zip(names, values, strict=True))
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=given):
                return self._dictionary(node, [(each.arg, each.value) for each in given])
        return Reference(ast.unparse(node))

    def _dictionary(self, node: ast.expr, pairs: Iterable[tuple[Any, ast.expr]]) -> Any:
        """Return a dictionary; a pair without a name is one that is spread (``**other``)."""
        made: dict[str, Any] = {}
        for name, value in pairs:
            found = self._value(value)
            if isinstance(name, str):
                made[name] = found
            elif name is None and isinstance(found, Mapping):
                made |= found
            else:
                return Reference(ast.unparse(node))
        return made

    def _calculated(self, how: Callable[..., Any], node: ast.expr, *operands: ast.expr) -> Any:
        """Return the result, or the text where an operand is known to a running program alone."""
        found = [self._value(each) for each in operands]
        joined = how is operator.add and all(map(_is_short, found))
        if not joined and not all(map(_is_number, found)):
            return Reference(ast.unparse(node))
        try:
            return how(*found)
        except (TypeError, ArithmeticError):
            return Reference(ast.unparse(node))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -LARGEST < value < LARGEST


def _is_short(value: object) -> bool:
    return isinstance(value, str | list | tuple) and len(value) < LONGEST


def _instead(found: object) -> str:
    if found is None:
        return Phrase(" and is not set")
    text = found.name if isinstance(found, Reference) else reprlib.repr(found)
    return Phrase(", not {given}", given=textwrap.shorten(text, 60, placeholder="..."))


def _inherits(item: ast.withitem) -> bool:
    call = item.context_expr
    return isinstance(call, ast.Call) and ast.unparse(call.func).endswith(INHERITS)
