"""Training records as people keep them, each checked, in one of seven formats.

    messages       {"messages": [{"role": "user", "content": ...}, ...], "tools": [...]}
    sharegpt       {"conversations": [{"from": "human", "value": ...}, ...], "system": ...}
    alpaca         {"instruction": ..., "input": ..., "output": ...}   (input may be left out)
    completion     {"prompt": ..., "completion": ...}
    text           {"text": ...}
    guanaco        {"text": "### Human: ... ### Assistant: ..."}
    xtuner         {"conversation": [{"system": ..., "input": ..., "output": ...}, ...]}

A source has one format, recognised by its first record or given by the plan, as guanaco must be.
Fields beside these are left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from launcher.data.conversations import (
    Conversation,
    from_alpaca,
    from_guanaco,
    from_turns,
    from_xtuner,
    parse_messages,
)
from launcher.data.record_fields import FieldError, Fields, kind, text
from planner.base.phrases import Phrase
from planner.plan.data_section import DataFormat, FieldName

FORMATS = (
    "messages; conversations; conversation; instruction and output; prompt and completion; or text"
)
_MARKS: tuple[tuple[DataFormat, tuple[FieldName, ...]], ...] = (
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("xtuner", ("conversation",)),
    ("alpaca", ("instruction",)),
    ("alpaca", ("output",)),
    ("completion", ("prompt",)),
    ("completion", ("completion",)),
    ("text", ("text",)),
)
"""Fields that reveal a record's format, the most specific first."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt, and the text that goes on from it."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text to learn whole."""

    text: str


Sample = Conversation | Completion | PlainText


def recognise(content: object, names: Mapping[FieldName, str]) -> DataFormat:
    """Return the format of a record, or raise FieldError with the fields it has."""
    fields = Fields(_object(content), names)
    for form, marks in _MARKS:
        if any(fields.name(mark) in fields.record for mark in marks):
            return form
    keys = ", ".join(map(str, fields.record)) or "none"
    raise FieldError(
        Phrase(
            "fields are {keys}; expected {formats} (name others in data.fields)",
            keys=keys,
            formats=FORMATS,
        )
    )


def parse(
    content: object, form: DataFormat, names: Mapping[FieldName, str], *, answers_only: bool
) -> Sample:
    """Return the record as what it teaches, or raise FieldError with the field."""
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
        case "xtuner":
            return _xtuner(fields, answers_only=answers_only)
        case "completion":
            return _completion(fields)
        case "text":
            return PlainText(fields.text("text"))


def _xtuner(fields: Fields, *, answers_only: bool) -> Sample:
    """Return a conversation, or the text that XTuner pretrains on: one output without an input."""
    pairs = fields.value("conversation")
    if isinstance(pairs, list) and len(pairs) == 1 and isinstance(pairs[0], dict):
        (pair,) = pairs
        if not pair.get("input") and not pair.get("system") and isinstance(pair.get("output"), str):
            return PlainText(text(pair["output"], f"{fields.name('conversation')}[0].output"))
    return from_xtuner(fields, answers_only=answers_only)


def _completion(fields: Fields) -> Sample:
    """Return two texts, or a conversation of which the second list of messages is learnt."""
    if not isinstance(fields.value("prompt"), list):
        return Completion(fields.text("prompt", may_be_empty=True), fields.text("completion"))
    asked = parse_messages(fields.value("prompt"), fields.name("prompt"))
    answers = parse_messages(fields.value("completion"), fields.name("completion"))
    given = [replace(message, learnt=False) for message in asked]
    return Conversation((*given, *answers))


def _object(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise FieldError(
            Phrase(
                "a record is an object with {formats}, not {kind}",
                formats=FORMATS,
                kind=kind(content),
            )
        )
    return content
