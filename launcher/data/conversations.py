"""Conversations as records hold them: OpenAI's messages, sharegpt, alpaca, guanaco, XTuner.

Roles and contents become OpenAI's, which is what chat templates are written for.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.data.record_fields import FieldError, Fields, kind, text
from planner.base.phrases import Phrase

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


_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Names of the field with an answer's thought; a chat template reads the one it knows."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as OpenAI's API has it."""

    role: str
    content: str
    learnt: bool = True
    """Whether the loss counts an answer."""
    reasoning: str = ""
    """Thought that a record keeps in a field of its own."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Tool calls, and what ties a tool's result to one."""

    @property
    def calls(self) -> list[Mapping[str, Any]]:
        """Functions that an answer calls, with ``name`` and ``arguments``."""
        return [call["function"] for call in self.extra.get("tool_calls", ())]

    @property
    def thought(self) -> str | None:
        """Thought that stands in think tags before an answer, or None."""
        thought = _THOUGHT.match(self.content)
        return None if thought is None else thought[1]

    @property
    def visible(self) -> str:
        """Content without the thought in think tags before it."""
        thought = _THOUGHT.match(self.content)
        return self.content if thought is None else self.content[thought.end() :]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, and the functions that may be called."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Schemas of the functions that may be called."""

    def after(self, system: str) -> "Conversation":
        """Return the conversation with a system message if it has none."""
        if self.messages[0].role == "system":
            return self
        return replace(self, messages=(Message("system", system), *self.messages))


def from_turns(fields: Fields, name: str, turns: object, *, answers_only: bool) -> Conversation:
    """Return a conversation from OpenAI's messages or ShareGPT's turns in the field ``name``."""
    messages = parse_messages(turns, name)
    if fields.has("system") and messages[:1] and messages[0].role != "system":
        messages = [Message("system", fields.text("system")), *messages]
    if not messages or messages[0].role not in ("system", "user"):
        first = messages[0].role if messages else Phrase("an empty system message")
        raise FieldError(
            Phrase("{name}[0].role: system or user begins, not {first}", name=name, first=first)
        )
    if answers_only and not any(m.role == "assistant" and m.learnt for m in messages):
        raise FieldError(
            Phrase("{name}: none has the role assistant, so there is no answer to learn", name=name)
        )
    return Conversation(tuple(messages), _tools(fields))


def from_alpaca(fields: Fields) -> Conversation:
    """Return a conversation whose last question is made of instruction and input."""
    messages = []
    if fields.has("system"):
        messages.append(Message("system", fields.text("system")))
    earlier = fields.value("history") if fields.has("history") else []
    if not isinstance(earlier, list):
        place = fields.name("history")
        raise FieldError(
            Phrase(
                "{place}: a list of earlier turns is expected, not {kind}",
                place=place,
                kind=kind(earlier),
            )
        )
    for index, turn in enumerate(earlier):
        place = f"{fields.name('history')}[{index}]"
        if not isinstance(turn, list) or len(turn) != 2:
            raise FieldError(
                Phrase("{place}: a pair of question and answer is expected", place=place)
            )
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
    """Return the turns after ``### Human:`` and ``### Assistant:``, up to the last answer."""
    name, roles = fields.name("text"), {"Human": "user", "Assistant": "assistant"}
    messages = []
    for part in fields.text("text").split("###"):
        who, colon, said = part.strip().partition(":")
        if colon and who in roles and said.strip():
            messages.append(Message(roles[who], said.strip()))
    while messages and messages[-1].role == "user":
        messages.pop()
    if not messages or messages[0].role != "user":
        raise FieldError(
            Phrase("{name}: ### Human: and then ### Assistant: are expected", name=name)
        )
    return Conversation(tuple(messages))


def parse_messages(turns: object, name: str) -> list[Message]:
    """Return messages with OpenAI's roles; an empty system message is the same as none."""
    if not isinstance(turns, list) or not turns:
        instead = Phrase("an empty list") if turns == [] else kind(turns)
        raise FieldError(
            Phrase(
                "{name}: a list of messages is expected, not {instead}", name=name, instead=instead
            )
        )
    messages = [_message(turn, f"{name}[{index}]") for index, turn in enumerate(turns)]
    return [m for m in messages if m.role != "system" or m.content.strip()]


def _message(turn: object, place: str) -> Message:
    if not isinstance(turn, dict):
        raise FieldError(
            Phrase("{place}: an object is expected, not {kind}", place=place, kind=kind(turn))
        )
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    said = turn.get(role_key)
    role = OTHER_ROLES.get(said, said) if isinstance(said, str) else said
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise FieldError(
            Phrase(
                "{place}.{role_key}: one of {known} is expected, not {said!r}",
                place=place,
                role_key=role_key,
                known=known,
                said=said,
            )
        )
    if said == "function_call":
        return Message(role, "", extra={"tool_calls": [_sharegpt_call(turn, f"{place}.value")]})
    extra = {key: turn[key] for key in ("name", "tool_call_id") if isinstance(turn.get(key), str)}
    calls = turn.get("tool_calls")
    if calls:
        extra["tool_calls"] = _calls(calls, f"{place}.tool_calls")
    reasoning = _reasoning(turn, place)
    may_be_empty = bool(calls or reasoning) or role in ("system", "tool")
    content = _content(turn, f"{place}.{content_key}", content_key, may_be_empty=may_be_empty)
    return Message(
        role,
        content,
        learnt=turn.get("weight", 1) != 0 and turn.get("loss") is not False,
        reasoning=reasoning,
        extra=extra,
    )


def _reasoning(turn: Mapping[str, Any], place: str) -> str:
    """Return the thought that comes before an answer, under any of its usual names."""
    for name in REASONING_FIELDS:
        if turn.get(name):
            return text(turn[name], f"{place}.{name}", may_be_empty=True)
    return ""


def _content(turn: Mapping[str, Any], place: str, key: str, *, may_be_empty: bool) -> str:
    """Return a text, or OpenAI's list of parts as one if all are text."""
    content = turn.get(key)
    if content is None and may_be_empty:
        return ""
    if key not in turn:
        raise FieldError(Phrase("{place}: this field is missing", place=place))
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if any(not isinstance(part, str) for part in parts):
            raise FieldError(
                Phrase(
                    "{place}: every part must be text; images and sound are not learnt", place=place
                )
            )
        content = "".join(map(str, parts))
    return text(content, place, may_be_empty=may_be_empty)


def _calls(calls: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise FieldError(
            Phrase("{place}: a list is expected, not {kind}", place=place, kind=kind(calls))
        )
    return [_call(call, f"{place}[{index}]") for index, call in enumerate(calls)]


def _call(call: object, place: str) -> dict[str, Any]:
    """Return a call with its arguments as an object; OpenAI writes them as text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise FieldError(
            Phrase("{place}.function: an object with name and arguments is expected", place=place)
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json_object(arguments, f"{place}.function.arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise FieldError(
            Phrase(
                "{place}.function.arguments: an object is expected, not {kind}",
                place=place,
                kind=kind(arguments),
            )
        )
    named = {"name": function["name"], "arguments": arguments or {}}
    identified = {"id": call["id"]} if isinstance(call, dict) and call.get("id") else {}
    return {"type": "function", **identified, "function": named}


def _sharegpt_call(turn: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the call that is written as ``{"name": ..., "arguments": ...}``."""
    function = _json_object(text(turn.get("value"), place), place)
    return _call({"function": function}, place)


def _json_object(content: str, place: str) -> dict[str, Any]:
    value = _json(content, place)
    if not isinstance(value, dict):
        raise FieldError(
            Phrase("{place}: a JSON object is expected, not {kind}", place=place, kind=kind(value))
        )
    return value


def _json(content: str, place: str) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FieldError(
            Phrase(
                "{place}: is not JSON ({reason})",
                place=place,
                reason=getattr(error, "msg", error),
            )
        ) from error


def _tools(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """Return the schemas in a list, or in the text of one, as sharegpt files have it."""
    if not fields.has("tools"):
        return ()
    tools, name = fields.value("tools"), fields.name("tools")
    if isinstance(tools, str):
        tools = _json(tools, name)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FieldError(
            Phrase(
                "{name}: a list of function schemas is expected, not {kind}",
                name=name,
                kind=kind(tools),
            )
        )
    return tuple(tools)


def from_xtuner(fields: Fields, *, answers_only: bool) -> Conversation:
    """Return the turns of XTuner's own format: input and output in pairs, system in the first.

    read: docs/en/user_guides/dataset_format.md at InternLM/xtuner v0.1.23
    """
    name = fields.name("conversation")
    pairs = fields.value("conversation")
    if not isinstance(pairs, list) or not pairs:
        raise FieldError(
            Phrase("{name}: a list of turns is expected, not {kind}", name=name, kind=kind(pairs))
        )
    messages = [m for index, pair in enumerate(pairs) for m in _pair(pair, f"{name}[{index}]")]
    if answers_only and not any(m.role == "assistant" and m.learnt for m in messages):
        raise FieldError(
            Phrase("{name}: no turn has an output, so there is no answer to learn", name=name)
        )
    return Conversation(tuple(messages))


def _pair(pair: object, place: str) -> Iterator[Message]:
    if not isinstance(pair, dict):
        raise FieldError(
            Phrase("{place}: an object is expected, not {kind}", place=place, kind=kind(pair))
        )
    if pair.get("system"):
        yield Message("system", text(pair["system"], f"{place}.system"))
    yield Message("user", text(pair.get("input"), f"{place}.input"))
    if pair.get("output"):
        learnt = pair.get("output_with_loss") is not False
        yield Message("assistant", text(pair["output"], f"{place}.output"), learnt=learnt)
