"""Conversations as records hold them: OpenAI's messages, sharegpt, alpaca, guanaco.

Roles and contents become OpenAI's, which is what chat templates are written for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.data.record_fields import FieldError, Fields, kind, text

ROLES = ("system", "user", "assistant", "tool")
OTHER_ROLES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
"""Names of the same roles: OpenAI's newer one, sharegpt's."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    learnt: bool = True
    """Of an answer: whether the loss counts it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Tool calls, and what ties a tool's result to one."""

    def as_dict(self) -> dict[str, Any]:
        """For a chat template."""
        return {"role": self.role, "content": self.content, **self.extra}

    @property
    def called(self) -> list[str]:
        """Names of the functions that an answer calls."""
        return [call["function"]["name"] for call in self.extra.get("tool_calls", ())]


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Schemas of the functions that may be called."""

    def after(self, system: str) -> "Conversation":
        """With that system message, where there is none."""
        if self.messages[0].role == "system":
            return self
        return replace(self, messages=(Message("system", system), *self.messages))


def from_turns(fields: Fields, name: str, turns: object, *, answers_only: bool) -> Conversation:
    """A list of messages; ``name`` is the field that holds it."""
    messages = parse_messages(turns, name)
    if fields.has("system") and messages[0].role != "system":
        messages = [Message("system", fields.text("system")), *messages]
    if messages[0].role not in ("system", "user"):
        raise FieldError(f"{name}[0].role: system or user begins, not {messages[0].role}")
    if answers_only and not any(m.role == "assistant" and m.learnt for m in messages):
        raise FieldError(f"{name}: none has the role assistant, so there is no answer to learn")
    return Conversation(tuple(messages), _tools(fields))


def from_alpaca(fields: Fields) -> Conversation:
    """Instruction and input are the question; earlier questions and answers come before it."""
    messages = []
    if fields.has("system"):
        messages.append(Message("system", fields.text("system")))
    earlier = fields.value("history") if fields.has("history") else []
    if not isinstance(earlier, list):
        place = fields.name("history")
        raise FieldError(f"{place}: a list of earlier turns is expected, not {kind(earlier)}")
    for index, turn in enumerate(earlier):
        place = f"{fields.name('history')}[{index}]"
        if not isinstance(turn, list) or len(turn) != 2:
            raise FieldError(f"{place}: a pair of question and answer is expected")
        messages += [
            Message("user", text(turn[0], place)),
            Message("assistant", text(turn[1], place)),
        ]
    question, addition = fields.text("instruction"), fields.optional_text("input")
    if addition:
        question = f"{question}\n\n{addition}"
    return Conversation(
        (*messages, Message("user", question), Message("assistant", fields.text("output")))
    )


def from_guanaco(fields: Fields) -> Conversation:
    """``### Human:`` and ``### Assistant:`` in turn; a question at the end has no answer."""
    name, roles = fields.name("text"), {"Human": "user", "Assistant": "assistant"}
    messages = []
    for part in fields.text("text").split("###"):
        who, colon, said = part.strip().partition(":")
        if colon and who in roles and said.strip():
            messages.append(Message(roles[who], said.strip()))
    while messages and messages[-1].role == "user":
        messages.pop()
    if not messages or messages[0].role != "user":
        raise FieldError(f"{name}: ### Human: and then ### Assistant: are expected")
    return Conversation(tuple(messages))


def parse_messages(turns: object, name: str) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        found = "an empty list" if turns == [] else kind(turns)
        raise FieldError(f"{name}: a list of messages is expected, not {found}")
    return [_message(turn, f"{name}[{index}]") for index, turn in enumerate(turns)]


def _message(turn: object, place: str) -> Message:
    if not isinstance(turn, dict):
        raise FieldError(f"{place}: an object is expected, not {kind(turn)}")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    said = turn.get(role_key)
    role = OTHER_ROLES.get(said, said) if isinstance(said, str) else said
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise FieldError(f"{place}.{role_key}: one of {known} is expected, not {said!r}")
    if said == "function_call":
        return Message(role, "", extra={"tool_calls": [_sharegpt_call(turn, f"{place}.value")]})
    extra = {key: turn[key] for key in ("name", "tool_call_id") if isinstance(turn.get(key), str)}
    calls = turn.get("tool_calls")
    if calls:
        extra["tool_calls"] = _calls(calls, f"{place}.tool_calls")
    return Message(
        role,
        _content(turn, f"{place}.{content_key}", content_key, may_be_empty=bool(calls)),
        learnt=turn.get("weight", 1) != 0 and turn.get("loss") is not False,
        extra=extra,
    )


def _content(turn: Mapping[str, Any], place: str, key: str, *, may_be_empty: bool) -> str:
    """A text, or OpenAI's list of parts where all are text."""
    content = turn.get(key)
    if content is None and may_be_empty:
        return ""
    if key not in turn:
        raise FieldError(f"{place}: this field is missing")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if any(not isinstance(part, str) for part in parts):
            raise FieldError(f"{place}: every part must be text; images and sound are not learnt")
        content = "".join(map(str, parts))
    return text(content, place, may_be_empty=may_be_empty)


def _calls(calls: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise FieldError(f"{place}: a list is expected, not {kind(calls)}")
    return [_call(call, f"{place}[{index}]") for index, call in enumerate(calls)]


def _call(call: object, place: str) -> dict[str, Any]:
    """Templates want arguments as an object; OpenAI writes them as text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise FieldError(f"{place}.function: an object with name and arguments is expected")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json_object(arguments, f"{place}.function.arguments")
    named = {"name": function["name"], "arguments": arguments or {}}
    identified = {"id": call["id"]} if isinstance(call, dict) and call.get("id") else {}
    return {"type": "function", **identified, "function": named}


def _sharegpt_call(turn: Mapping[str, Any], place: str) -> dict[str, Any]:
    """``{"name": ..., "arguments": ...}`` as text."""
    function = _json_object(text(turn.get("value"), place), place)
    return _call({"function": function}, place)


def _json_object(content: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except json.JSONDecodeError as error:
        raise FieldError(f"{place}: is not JSON ({error.msg})") from error
    if not isinstance(found, dict):
        raise FieldError(f"{place}: a JSON object is expected, not {kind(found)}")
    return found


def _tools(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """A list of schemas, or the same as text, as sharegpt files have it."""
    if not fields.has("tools"):
        return ()
    tools, name = fields.value("tools"), fields.name("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise FieldError(f"{name}: is not JSON ({error.msg})") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FieldError(f"{name}: a list of function schemas is expected, not {kind(tools)}")
    return tuple(tools)
