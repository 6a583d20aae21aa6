"""Immutable values whose fields are checked when they are made, from a mapping or by name.

A class states its fields as a dataclass does. Its checks are made when its first value is, in
Python: a library that compiles them (pydantic) took a quarter of the time that a plan takes,
nearly all of it to be imported and to build what one file is read with once.
"""

from collections.abc import Callable, Collection, Mapping
from inspect import get_annotations
from sys import modules
from typing import Any, ClassVar, Literal, NoReturn, Self, dataclass_transform

from planner.checks import NO_LIMITS, Check, Limits, Location, Problem, check_of

_REQUIRED: Any = object()


class ValidationError(ValueError):
    """Every problem of a value that cannot be made."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class Declared:
    """One field: its default, its limits, and the annotation with the module that has its names."""

    __slots__ = ("annotation", "default", "factory", "limits", "module")

    def __init__(
        self,
        default: Any,
        factory: Callable[[], Any] | None = None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self.default = default
        self.factory = factory
        self.limits = limits

    def annotated(self, annotation: Any, module: str) -> "Declared":
        self.annotation = annotation
        self.module = module
        return self

    @property
    def scope(self) -> Mapping[str, Any]:
        """The classes that the annotation may name as text."""
        return vars(modules[self.module])

    @property
    def check(self) -> Check:
        return check_of(self.annotation, self.scope, self.limits)

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED and self.factory is None

    def absent(self) -> Any:
        """What stands where nothing was given."""
        return self.default if self.factory is None else self.factory()


def field(
    *,
    default: Any = _REQUIRED,
    default_factory: Callable[[], Any] | None = None,
    ge: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    pattern: str | None = None,
) -> Any:
    """A field with limits, or with a default that is made anew for each value."""
    return Declared(default, default_factory, Limits(ge, gt, lt, pattern))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Checked:
    """Immutable, with no unknown fields and no silent conversions."""

    __slots__ = ("__dict__", "__weakref__", "_hash")
    model_fields: ClassVar[dict[str, Declared]] = {}
    """By name, those of base classes first."""
    _checks: ClassVar[dict[str, Check]]
    _hash: int

    def __init_subclass__(cls) -> None:
        fields = dict(cls.model_fields)
        for name, annotation in get_annotations(cls).items():
            given = cls.__dict__.get(name, _REQUIRED)
            if isinstance(given, Declared):
                delattr(cls, name)
            else:
                given = Declared(given)
            fields[name] = given.annotated(annotation, cls.__module__)
        cls.model_fields = fields

    def __init__(self, **values: Any) -> None:
        problems: list[Problem] = []
        self._fill(values, (), problems)
        if problems:
            raise ValidationError(problems)

    def _fill(self, values: dict[Any, Any], at: Location, problems: list[Problem]) -> None:
        """Fields in order, then what is unknown; last what they say together."""
        kind, before = type(self), len(problems)
        checks = kind.__dict__.get("_checks") or kind._compiled()
        content = self.__dict__
        for name, declared in kind.model_fields.items():
            if name in values:
                content[name] = checks[name](values[name], (*at, name), problems)
            elif declared.required:
                problems.append(Problem((*at, name), "missing", "this key is missing"))
            else:
                content[name] = declared.absent()
        if not values.keys() <= kind.model_fields.keys():
            unknown = [name for name in values if name not in kind.model_fields]
            problems += [Problem((*at, name), "unknown", "unknown key") for name in unknown]
        if len(problems) == before:
            try:
                self._agrees()
            except ValueError as error:
                problems.append(Problem(at, "contradiction", str(error)))

    def _agrees(self) -> None:
        """Raise a ValueError where fields contradict each other."""

    @classmethod
    def _compiled(cls) -> dict[str, Check]:
        cls._checks = {name: each.check for name, each in cls.model_fields.items()}
        return cls._checks

    @classmethod
    def as_field(cls, value: Any, at: Location, problems: list[Problem]) -> Any:
        """What a field of this class is: read from a mapping, or a value that is one already."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            problems.append(Problem(at, "value", "it should hold keys of its own", value))
            return value
        made = cls.__new__(cls)
        made._fill(value, at, problems)
        return made

    @classmethod
    def model_validate(cls, content: Any) -> Self:
        """From a mapping; raises a ValidationError."""
        problems: list[Problem] = []
        made: Self = cls.as_field(content, (), problems)
        if problems:
            raise ValidationError(problems)
        return made

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """With other values, which are not checked."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__, **update)
        return copy

    def model_dump(
        self,
        *,
        mode: Literal["python", "json"] = "python",
        include: Collection[str] | None = None,
        exclude: Collection[str] = (),
        exclude_none: bool = False,
        exclude_defaults: bool = False,
    ) -> dict[str, Any]:
        """As plain data; tuples are lists for ``json``."""

        def plain(value: Any) -> Any:
            if isinstance(value, Checked):
                return value.model_dump(
                    mode=mode, exclude_none=exclude_none, exclude_defaults=exclude_defaults
                )
            if isinstance(value, tuple | list):
                kind = list if mode == "json" else type(value)
                return kind(plain(each) for each in value)
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return value

        return {
            name: plain(value)
            for name, value in self._given().items()
            if (include is None or name in include)
            and name not in exclude
            and not (exclude_none and value is None)
            and not (exclude_defaults and value == self.model_fields[name].default)
        }

    def _given(self) -> dict[str, Any]:
        """What is written of the fields: all of them."""
        content = self.__dict__
        return {name: content[name] for name in self.model_fields}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self is other or self._given() == other._given()

    def __hash__(self) -> int:
        try:
            found: int = self._hash
        except AttributeError:
            found = hash(tuple(self._given().values()))
            object.__setattr__(self, "_hash", found)
        return found

    def __repr__(self) -> str:
        content = ", ".join(f"{name}={value!r}" for name, value in self._given().items())
        return f"{type(self).__name__}({content})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __getstate__(self) -> dict[str, Any]:
        """Without the hash, which another process would make otherwise."""
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
