"""``--with KEY=VALUE`` as an engine's own settings, as strict as a plan."""

from collections.abc import Mapping
from typing import TypeVar

from msgspec import ValidationError, convert, json

from planner.base.errors import InvalidRequestError, did_you_mean
from planner.base.strict_yaml import Spec
from planner.base.validation_messages import problem_of

SettingsT = TypeVar("SettingsT", bound=Spec)


def read_settings(kind: type[SettingsT], engine: str, given: Mapping[str, str]) -> SettingsT:
    """The settings, numbers and truth values read from their text.

    Raises ``InvalidRequestError`` for a key that the engine does not have, one that is missing,
    and a value of another kind.
    """
    schema = json.schema(kind)["$defs"][kind.__name__]
    for key in given:
        if key not in schema["properties"]:
            hint = did_you_mean(key, schema["properties"])
            raise InvalidRequestError(f"--with {key}: {engine} has no such setting. {hint}")
    for key in schema["required"]:
        if key not in given:
            what = schema["properties"][key]["description"]
            raise InvalidRequestError(f"--on {engine} needs --with {key}=...: {what}")
    try:
        return convert(given, kind, strict=False)
    except ValidationError as error:
        raise InvalidRequestError(f"--with {problem_of(error, kind, given).text}") from error
