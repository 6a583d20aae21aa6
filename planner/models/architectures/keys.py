"""The keys of one ``config.json``, read strictly, and what an architecture is made of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from planner.base.errors import InvalidFileError, NoFormulasError
from planner.base.phrases import Phrase
from planner.models.model_spec import Activation, ModelSpec

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu-new",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "gelu-quick",
    "relu": "relu",
    "relu2": "relu2",
}
"""Activations by transformers' names, those of ``ACT2FN``."""
ACTIVATION_NAMES: Mapping[Activation, str] = {ours: name for name, ours in ACTIVATIONS.items()}


MOST_NUMBER = 1e300
"""Number that none in a file reaches, so that it is a float."""


class Config(Struct, frozen=True):
    """The keys of one file; ``null`` means that a key is left out."""

    content: Mapping[str, Any]
    path: Path

    def error(self, reason: str) -> InvalidFileError:
        """Return an error in the file."""
        return InvalidFileError(self.path, None, reason)

    def value(self, key: str, default: object) -> object:
        """Return the value of a key, or the default.

        Raises InvalidFileError where there is neither, or, in the methods below, where the value is
        of another kind.
        """
        found = self.content.get(key)
        if found is None and default is None:
            raise self.error(
                Phrase("the key {key!r} is missing: copy the model's own config.json here", key=key)
            )
        return default if found is None else found

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number of at least ``least``."""
        value = self.value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(
                Phrase(
                    "{key}: {value!r} is not a whole number above {least}",
                    key=key,
                    value=value,
                    least=least - 1,
                )
            )
        return value

    def either(self, key: str, other: str, default: int) -> int:
        """Return a whole number that files have under either name."""
        return self.integer(key if key in self.content else other, default)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self.error(
                Phrase("{key}: {value!r} is neither true nor false", key=key, value=value)
            )
        return value

    def fraction(self, key: str, default: float) -> float:
        """Return a number from 0 to 1."""
        value = self.value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self.error(
                Phrase("{key}: {value!r} is not a number from 0 to 1", key=key, value=value)
            )
        return float(value)

    def number(self, key: str, default: float | None) -> float | None:
        """Return a number above 0, or None; a key that is ``null`` means None."""
        value = self.content.get(key, default)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < MOST_NUMBER:
            raise self.error(
                Phrase("{key}: {value!r:.60} is not a number above 0", key=key, value=value)
            )
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text."""
        value = self.value(key, default)
        if not isinstance(value, str):
            raise self.error(Phrase("{key}: {value!r} is not text", key=key, value=value))
        return value

    def listed(self, key: str, count: int) -> list[Any] | None:
        """Return a list with one entry per layer; None where the key is left out."""
        value = self.content.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            raise self.error(
                Phrase(
                    "{key}: it must be a list of one entry for each of {count} "
                    "{count[layer|layers]}",
                    key=key,
                    count=count,
                )
            )
        return value

    def layer_numbers(self, key: str) -> tuple[int, ...]:
        """Return layers counted from 0; none where the key is left out."""
        value = self.value(key, [])
        if not isinstance(value, list) or not all(isinstance(x, int) for x in value):
            raise self.error(
                Phrase("{key}: {value!r} is not a list of layers", key=key, value=value)
            )
        return tuple(value)

    def count(self, key: str, default: int = 0) -> int:
        """Return a whole number that may be 0."""
        return 0 if self.value(key, default) == 0 else self.integer(key, default or None)

    def activation(self, key: str, default: str) -> Activation:
        """Return the activation of a name.

        Raises NoFormulasError for one that is not modelled.
        """
        name = self.text(key, default)
        if name not in ACTIVATIONS:
            raise self.no_formulas(key, Phrase("an activation that is not modelled"))
        return ACTIVATIONS[name]

    def part(self, key: str) -> "Config":
        """Return the keys inside ``key``; none where it is absent."""
        value = self.value(key, {})
        if not isinstance(value, dict):
            raise self.error(Phrase("{key}: {value!r} is not a mapping", key=key, value=value))
        return Config(value, self.path)

    def window(self, ordinary: int | None) -> int | None:
        """Return the sliding window; a key that is ``null`` means None."""
        if self.content.get("sliding_window", ordinary) is None:
            return None
        return self.integer("sliding_window", ordinary)

    def refuse(self, key: str, why: Phrase, ordinary: object = False) -> None:
        """Raise NoFormulasError where a key has another value than the ordinary one, since
        :class:`ModelSpec` cannot describe such shapes."""
        if self.value(key, ordinary) != ordinary:
            raise self.no_formulas(key, why)

    def no_formulas(self, key: str, why: Phrase) -> NoFormulasError:
        """Return the error for a value without formulas."""
        return NoFormulasError(
            self.path,
            None,
            Phrase(
                "{key}: {content!r:.60} has no formulas: {why}",
                key=key,
                content=self.content[key],
                why=why,
            ),
        )


def no_keys(_spec: ModelSpec) -> dict[str, Any]:
    """Return no keys, for architectures that have only those that all share."""
    return {}


class Architecture(Struct, frozen=True):
    """One ``model_type``: how its ``config.json`` is read, and what is written beside the keys that
    all share."""

    native_class: str | None
    """The transformers class that the launcher builds; None where another type stands for it, as
    GLM for ChatGLM."""
    read: Callable[[Config], ModelSpec]
    written: Callable[[ModelSpec], dict[str, Any]] = no_keys
    derived: tuple[str, ...] = ()
    """Shared keys that its configuration class derives by itself and does not accept."""
    wraps: str | None = None
    """The text model's type where the keys that all share are inside ``text_config``, beside what
    ``written`` returns."""
