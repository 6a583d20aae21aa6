"""``--with KEY=VALUE`` as an engine's settings, checked as strictly as a plan."""

from collections.abc import Mapping
from typing import TypeVar

from msgspec import ValidationError, convert, json

from planner.base.errors import InvalidRequestError, did_you_mean
from planner.base.phrases import Joined, Phrase
from planner.base.strict_yaml import Spec
from planner.base.validation_messages import problem_of

SettingsT = TypeVar("SettingsT", bound=Spec)


def read_settings(kind: type[SettingsT], engine: str, given: Mapping[str, str]) -> SettingsT:
    """Return the settings, with numbers and truth values read from their text.

    Raise ``InvalidRequestError`` for an unknown key, a missing one, and a value of another type.
    """
    schema = json.schema(kind)["$defs"][kind.__name__]
    for key in given:
        if key not in schema["properties"]:
            hint = did_you_mean(key, schema["properties"])
            raise InvalidRequestError(
                Phrase(
                    "--with {key}: {engine} has no such setting. {hint}",
                    key=key,
                    engine=engine,
                    hint=hint,
                )
            )
    for key in schema["required"]:
        if key not in given:
            what = schema["properties"][key]["description"]
            raise InvalidRequestError(
                Phrase(
                    "--on {engine} needs --with {key}=...: {what}",
                    engine=engine,
                    key=key,
                    what=Phrase(what),
                )
            )
    try:
        return convert(given, kind, strict=False)
    except ValidationError as error:
        raise InvalidRequestError(
            Joined(" ", ["--with", problem_of(error, kind, given).text])
        ) from error
