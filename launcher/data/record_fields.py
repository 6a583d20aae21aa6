"""The fields of one record under the names that its file gives them; what is wrong names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.plan.data_section import FieldName


class FieldError(Exception):
    """A record breaks its format; the message starts with the field."""


@dataclass(frozen=True, slots=True)
class Fields:
    record: Mapping[str, Any]
    names: Mapping[FieldName, str]
    """The record's names where they are not the format's own."""

    def name(self, field: FieldName) -> str:
        return self.names.get(field, field)

    def has(self, field: FieldName) -> bool:
        """A field without content counts as absent: tables have every field in every row."""
        found = self.record.get(self.name(field))
        return found is not None and not (isinstance(found, str) and not found.strip())

    def value(self, field: FieldName) -> Any:
        if self.name(field) not in self.record:
            keys = ", ".join(map(str, self.record)) or "none"
            raise FieldError(f"{self.name(field)}: this field is missing; the record has {keys}")
        return self.record[self.name(field)]

    def text(self, field: FieldName, *, may_be_empty: bool = False) -> str:
        return text(self.value(field), self.name(field), may_be_empty=may_be_empty)

    def optional_text(self, field: FieldName) -> str:
        """Nothing where it is absent or blank."""
        return self.text(field) if self.has(field) else ""


def text(value: object, place: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{place}: text is expected, not {kind(value)}")
    if not value.strip() and not may_be_empty:
        raise FieldError(f"{place}: is empty")
    return value


def kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    if value is None:
        return "nothing"
    return names.get(type(value), "a number")
