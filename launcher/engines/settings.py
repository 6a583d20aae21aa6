"""``--with KEY=VALUE`` as an engine's own settings, as strict as a plan."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from planner.errors import InvalidRequestError, did_you_mean
from planner.spec import Spec

SettingsT = TypeVar("SettingsT", bound=Spec)


def read_settings(kind: type[SettingsT], engine: str, given: Mapping[str, str]) -> SettingsT:
    """The settings, numbers and truth values read from their text.

    Raises ``InvalidRequestError`` for a key that the engine does not have, one that is missing,
    and a value of another kind.
    """
    for key in given:
        if key not in kind.model_fields:
            hint = did_you_mean(key, kind.model_fields)
            raise InvalidRequestError(f"--with {key}: {engine} has no such setting. {hint}")
    try:
        return kind.model_validate_strings(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            what = kind.model_fields[key].description
            raise InvalidRequestError(f"--on {engine} needs --with {key}=...: {what}") from error
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        given_value = f" (not {given[key]!r})" if key in given else ""
        raise InvalidRequestError(f"--with {key}: {reason}{given_value}") from error
