"""A configuration written in Python, read as syntax and never run."""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import InvalidFileError
from planner.spec import read_text

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
INHERITS = "read_base"
"""mmengine's way to build one configuration on another."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the file imports and only running it could look into: a class, a function."""

    name: str
    """Dotted, as it is written."""

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class PythonConfig:
    """The names that a file sets at its top level, in the order of the file."""

    path: Path
    values: Mapping[str, Any]
    """Numbers, texts, tuples, lists, dictionaries and references, nested; ``dict(...)`` is a
    dictionary."""
    lines: Mapping[str, int]

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a dotted key, where every step but the last is a dictionary."""
        found: Any = self.values
        for step in key.split("."):
            if not isinstance(found, Mapping) or step not in found:
                return default
            found = found[step]
        return found

    def error(self, key: str, reason: str) -> InvalidFileError:
        """Names the line where the key's first part is set."""
        return InvalidFileError(self.path, self.lines.get(key.split(".")[0]), reason)


def read_python_config(path: Path) -> PythonConfig:
    """Raises InvalidFileError, with the line, for what is not Python or builds on other files."""
    try:
        tree = ast.parse(read_text(path))
    except SyntaxError as error:
        raise InvalidFileError(path, error.lineno, f"not Python: {error.msg}") from error
    except ValueError as error:
        raise InvalidFileError(path, None, f"not Python: {error}") from error
    reader = _Reader(path)
    reader.read(tree.body)
    return PythonConfig(path=path, values=reader.values, lines=reader.lines)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}
        self.lines: dict[str, int] = {}

    def read(self, statements: Iterable[ast.stmt]) -> None:
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
                        "builds on other files, which only running it could read: give a file "
                        "that stands alone",
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
                pairs = zip(keys, values, strict=True)
                return {self._value(k): self._value(v) for k, v in pairs if k is not None}
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=given):
                return {k.arg: self._value(k.value) for k in given if k.arg is not None}
        return Reference(ast.unparse(node))

    def _calculated(self, how: Callable[..., Any], node: ast.expr, *operands: ast.expr) -> Any:
        """The result, or the text where an operand is known to a running program alone."""
        try:
            return how(*map(self._value, operands))
        except (TypeError, ZeroDivisionError):
            return Reference(ast.unparse(node))


def _inherits(item: ast.withitem) -> bool:
    call = item.context_expr
    return isinstance(call, ast.Call) and ast.unparse(call.func).endswith(INHERITS)
