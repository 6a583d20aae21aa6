"""Training records as people keep them: a file of them, each checked, in one of four forms.

    messages       {"messages": [{"role": "user", "content": ...}, ...]}
    alpaca         {"instruction": ..., "input": ..., "output": ...}   (input may be left out)
    completion     {"prompt": ..., "completion": ...}
    text           {"text": ...}

Keys beside these are left alone. A file is JSON Lines, or one JSON array.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from planner.errors import InvalidFileError, InvalidRequestError
from planner.spec import read_text

ROLES = ("system", "user", "assistant", "tool")
SUFFIXES = (".jsonl", ".json")
FORMS = "messages; instruction, input and output; prompt and completion; or text"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class PlainText:
    text: str


Sample = Conversation | Completion | PlainText


class _FieldError(Exception):
    """A record breaks its form; the message starts with the field."""


def data_file(source: str | None) -> Path:
    """The file that ``data.source`` names, or an error that says what to do."""
    if source is None:
        raise InvalidRequestError(
            "the plan names no data. Say which with --data FILE, or fill in data.source."
        )
    path = Path(str(files("presets"))) / "data" / "demo.jsonl" if source == "demo" else Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InvalidRequestError(f"data file {path} {what}. Name one with --data FILE.")
    if path.suffix not in SUFFIXES:
        raise InvalidRequestError(f"data file {path}: {' or '.join(SUFFIXES)} is expected.")
    return path


def read_samples(path: Path, *, answers_only: bool) -> list[Sample]:
    """Every record of a file, or an error with file, line and field of the first bad one."""
    text = read_text(path)
    records = json_lines(text, path) if path.suffix == ".jsonl" else _json_array(text, path)
    samples = []
    for line, record in records:
        try:
            samples.append(_sample(record, answers_only=answers_only))
        except _FieldError as error:
            raise InvalidFileError(path, line, str(error)) from error
    if not samples:
        raise InvalidFileError(path, None, f"holds no records. Each one is {FORMS}")
    return samples


def json_lines(text: str, path: Path) -> Iterator[tuple[int, object]]:
    """The value on each line that is not blank, with the line's number."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InvalidFileError(
                    path, number, f"is not JSON ({error.msg}, column {error.colno})"
                ) from error


def _json_array(text: str, path: Path) -> Iterator[tuple[int, object]]:
    """The elements of an array with the line that each starts on."""
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    if not text.startswith("[", position):
        raise InvalidFileError(path, 1, "a JSON array of records is expected, as in [{...}, {...}]")
    position = _skip_space(text, position + 1)
    while not text.startswith("]", position):
        line = text.count("\n", 0, position) + 1
        try:
            record, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise InvalidFileError(path, error.lineno, f"is not JSON ({error.msg})") from error
        yield line, record
        position = _skip_space(text, position)
        if text.startswith(",", position):
            position = _skip_space(text, position + 1)
        elif not text.startswith("]", position):
            line = text.count("\n", 0, position) + 1
            raise InvalidFileError(path, line, "is not JSON (expecting ',' or ']')")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _sample(record: object, *, answers_only: bool) -> Sample:
    if not isinstance(record, dict):
        raise _FieldError(f"a record is an object with {FORMS}, not {_kind(record)}")
    if "messages" in record:
        return _conversation(record["messages"], answers_only=answers_only)
    if "instruction" in record or "output" in record:
        return _alpaca(record)
    if "prompt" in record or "completion" in record:
        return Completion(_text(record, "prompt"), _text(record, "completion"))
    if "text" in record:
        return PlainText(_text(record, "text"))
    keys = ", ".join(map(str, record)) or "none"
    raise _FieldError(f"keys are {keys}; expected {FORMS}")


def _alpaca(record: dict[str, Any]) -> Conversation:
    question = _text(record, "instruction")
    if record.get("input"):
        question = f"{question}\n\n{_text(record, 'input')}"
    answer = _text(record, "output")
    return Conversation((Message("user", question), Message("assistant", answer)))


def _conversation(messages: object, *, answers_only: bool) -> Conversation:
    if not isinstance(messages, list) or not messages:
        raise _FieldError(f"messages: a list of messages is expected, not {_kind(messages)}")
    parsed = tuple(_message(message, index) for index, message in enumerate(messages))
    if parsed[0].role not in ("system", "user"):
        raise _FieldError(f"messages[0].role: system or user begins, not {parsed[0].role}")
    if answers_only and all(message.role != "assistant" for message in parsed):
        raise _FieldError("messages: none has the role assistant, so there is no answer to learn")
    return Conversation(parsed)


def _message(message: object, index: int) -> Message:
    place = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _FieldError(f"{place}: an object is expected, not {_kind(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise _FieldError(f"{place}.role: one of {', '.join(ROLES)} is expected, not {role!r}")
    return Message(role, _text(message, "content", place=f"{place}."))


def _text(record: dict[str, Any], key: str, *, place: str = "") -> str:
    if key not in record:
        raise _FieldError(f"{place}{key}: this field is missing")
    value = record[key]
    if not isinstance(value, str):
        raise _FieldError(f"{place}{key}: text is expected, not {_kind(value)}")
    if not value.strip() and key != "prompt":
        raise _FieldError(f"{place}{key}: is empty")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    if value is None:
        return "nothing"
    return names.get(type(value), "a number")
