"""The fields of one record, under the names that its file gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.base.phrases import Joined, Phrase
from planner.plan.data_section import FieldName


class FieldError(Exception):
    """A record breaks its format; the message starts with the field."""


class UnlearnableError(FieldError):
    """A record that the model's chat template or tokenizer cannot represent faithfully.

    ``reason`` is the same for every record that fails alike; ``place`` begins the message.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(Joined(": ", [place, reason]) if place else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one record, by the format's own names for them."""

    record: Mapping[str, Any]
    names: Mapping[FieldName, str]
    """Names in the record where they differ from the format's own."""

    def name(self, field: FieldName) -> str:
        return self.names.get(field, field)

    def has(self, field: FieldName) -> bool:
        """Return whether a field has content: tables have every field in every row."""
        value = self.record.get(self.name(field))
        return value is not None and not (isinstance(value, str) and not value.strip())

    def value(self, field: FieldName) -> Any:
        if self.name(field) not in self.record:
            keys = ", ".join(map(str, self.record)) or "none"
            raise FieldError(
                Phrase(
                    "{name}: this field is missing; the record has {keys}",
                    name=self.name(field),
                    keys=keys,
                )
            )
        return self.record[self.name(field)]

    def text(self, field: FieldName, *, may_be_empty: bool = False) -> str:
        return text(self.value(field), self.name(field), may_be_empty=may_be_empty)

    def optional_text(self, field: FieldName) -> str:
        """Return the text of a field, or an empty one if the field is absent or blank."""
        return self.text(field) if self.has(field) else ""


def text(value: object, place: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise FieldError(
            Phrase("{place}: text is expected, not {kind}", place=place, kind=kind(value))
        )
    if not value.strip() and not may_be_empty:
        raise FieldError(Phrase("{place}: is empty", place=place))
    return value


def kind(value: object) -> str:
    """Return what a value is called in a message."""
    names = {
        dict: Phrase("an object"),
        list: Phrase("a list"),
        str: "text",
        bool: Phrase("a truth value"),
    }
    if value is None:
        return "null"
    return names.get(type(value), "a number")
