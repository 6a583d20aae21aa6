"""The keys of one ``config.json``, read strictly, and what an architecture is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from planner.base.errors import InvalidFileError, NoFormulasError
from planner.models.model_spec import Activation, ModelSpec

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu-new",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "gelu-quick",
    "relu": "relu",
}
"""transformers' names, those of ``ACT2FN``, and ours."""
ACTIVATION_NAMES: Mapping[Activation, str] = {ours: name for name, ours in ACTIVATIONS.items()}


@dataclass(frozen=True, slots=True)
class Config:
    """The keys of one file; ``null`` means that a key was left out."""

    content: Mapping[str, Any]
    path: Path

    def error(self, reason: str) -> InvalidFileError:
        return InvalidFileError(self.path, None, reason)

    def value(self, key: str, default: object) -> object:
        found = self.content.get(key)
        if found is None and default is None:
            raise self.error(f"the key {key!r} is missing. Copy the model's own config.json here")
        return default if found is None else found

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(f"{key}: {value!r} is not a whole number above {least - 1}")
        return value

    def either(self, key: str, other: str, default: int) -> int:
        """A whole number that files have under either name."""
        return self.integer(key if key in self.content else other, default)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key}: {value!r} is neither true nor false")
        return value

    def fraction(self, key: str, default: float) -> float:
        value = self.value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self.error(f"{key}: {value!r} is not a number from 0 to 1")
        return float(value)

    def number(self, key: str, default: float | None) -> float | None:
        """A number above 0, or nothing; where the key is there, ``null`` is nothing."""
        value = self.content.get(key, default)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self.error(f"{key}: {value!r} is not a number above 0")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.value(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key}: {value!r} is not text")
        return value

    def listed(self, key: str, count: int) -> list[Any] | None:
        """One entry for each layer, or nothing where the key is left out."""
        value = self.content.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            raise self.error(f"{key}: it must be a list of one entry for each of {count} layers")
        return value

    def layer_numbers(self, key: str) -> tuple[int, ...]:
        """Layers counted from 0, none where the key is left out."""
        value = self.value(key, [])
        if not isinstance(value, list) or not all(isinstance(x, int) for x in value):
            raise self.error(f"{key}: {value!r} is not a list of layers")
        return tuple(value)

    def count(self, key: str, default: int = 0) -> int:
        """As :meth:`integer`, and may be 0."""
        return 0 if self.value(key, default) == 0 else self.integer(key, default or None)

    def activation(self, key: str, default: str) -> Activation:
        name = self.text(key, default)
        if name not in ACTIVATIONS:
            raise self.no_formulas(key, "an activation that is not in the ledger")
        return ACTIVATIONS[name]

    def part(self, key: str) -> "Config":
        """The keys inside ``key``, none where it is absent."""
        value = self.value(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key}: {value!r} is not a mapping")
        return Config(value, self.path)

    def window(self, ordinary: int | None) -> int | None:
        """Where the key is there, ``null`` means no window."""
        if self.content.get("sliding_window", ordinary) is None:
            return None
        return self.integer("sliding_window", ordinary)

    def refuse(self, key: str, why: str, ordinary: object = False) -> None:
        """Shapes that :class:`ModelSpec` cannot describe must not be miscounted."""
        if self.value(key, ordinary) != ordinary:
            raise self.no_formulas(key, why)

    def no_formulas(self, key: str, why: str) -> NoFormulasError:
        return NoFormulasError(
            self.path, None, f"{key}: {self.content[key]!r:.60} has no formulas: {why}"
        )


def no_keys(_spec: ModelSpec) -> dict[str, Any]:
    """What an architecture states whose keys are those that all share."""
    return {}


class Architecture(NamedTuple):
    """One ``model_type``: how its ``config.json`` is read, and what is written beside the keys
    that all share."""

    native_class: str | None
    """The transformers class that the launcher builds; nothing where another type stands for it,
    as GLM for ChatGLM."""
    read: Callable[[Config], ModelSpec]
    written: Callable[[ModelSpec], dict[str, Any]] = no_keys
    derived: tuple[str, ...] = ()
    """Shared keys that its configuration class works out by itself and refuses to be told."""
