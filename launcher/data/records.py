"""Training records as people keep them, each checked, in one of six formats.

    messages       {"messages": [{"role": "user", "content": ...}, ...], "tools": [...]}
    sharegpt       {"conversations": [{"from": "human", "value": ...}, ...], "system": ...}
    alpaca         {"instruction": ..., "input": ..., "output": ...}   (input may be left out)
    completion     {"prompt": ..., "completion": ...}
    text           {"text": ...}
    guanaco        {"text": "### Human: ... ### Assistant: ..."}

A source has one format, recognised by its first record or given by the plan, as guanaco must be.
Fields beside these are left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.data.conversations import (
    Conversation,
    Message,
    from_alpaca,
    from_guanaco,
    from_turns,
    parse_messages,
)
from launcher.data.record_fields import FieldError, Fields, kind
from planner.plan.data_section import DataFormat, FieldName

FORMATS = "messages; conversations; instruction and output; prompt and completion; or text"
_MARKS: tuple[tuple[DataFormat, tuple[FieldName, ...]], ...] = (
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("alpaca", ("instruction",)),
    ("alpaca", ("output",)),
    ("completion", ("prompt",)),
    ("completion", ("completion",)),
    ("text", ("text",)),
)
"""Fields by which a record tells its format, the most telling first."""


@dataclass(frozen=True, slots=True)
class Completion:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class PlainText:
    text: str


Sample = Conversation | Completion | PlainText


def recognise(content: object, names: Mapping[FieldName, str]) -> DataFormat:
    """The format of a record, or an error that names the fields it has."""
    fields = Fields(_object(content), names)
    for found, marks in _MARKS:
        if any(fields.name(mark) in fields.record for mark in marks):
            return found
    keys = ", ".join(map(str, fields.record)) or "none"
    raise FieldError(f"fields are {keys}; expected {FORMATS} (name others in data.fields)")


def parse(
    content: object, form: DataFormat, names: Mapping[FieldName, str], *, answers_only: bool
) -> Sample:
    """The record as what it teaches, or an error that names the field."""
    fields = Fields(_object(content), names)
    match form:
        case "messages" | "sharegpt":
            field: FieldName = "messages" if form == "messages" else "conversations"
            return from_turns(
                fields, fields.name(field), fields.value(field), answers_only=answers_only
            )
        case "alpaca":
            return from_alpaca(fields)
        case "guanaco":
            return from_guanaco(fields)
        case "completion":
            return _completion(fields)
        case "text":
            return PlainText(fields.text("text"))


def _completion(fields: Fields) -> Sample:
    """Texts, or two lists of messages of which the second is the answer."""
    if not isinstance(fields.value("prompt"), list):
        return Completion(fields.text("prompt", may_be_empty=True), fields.text("completion"))
    asked = parse_messages(fields.value("prompt"), fields.name("prompt"))
    answers = parse_messages(fields.value("completion"), fields.name("completion"))
    given = [Message(m.role, m.content, learnt=False, extra=m.extra) for m in asked]
    return Conversation((*given, *answers))


def _object(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise FieldError(f"a record is an object with {FORMATS}, not {kind(content)}")
    return content
