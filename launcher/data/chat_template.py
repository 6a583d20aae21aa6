"""A tokenizer's chat template, and what rendering it with stand-ins proves about it.

A stand-in is a unique word that replaces a content. Where it comes out is where the template puts
that content, whatever the content says, so what a template leaves out and what it puts after an
answer is read off once for every shape of conversation.
"""

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError

from launcher.data.conversations import REASONING_FIELDS, Conversation, Message
from launcher.data.record_fields import UnlearnableError
from planner.base.phrases import Phrase

SHAPES_KEPT = 4096

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""Chat template for a base model, whose tokenizer comes without one."""

PLAIN_TOOL = {
    "type": "function",
    "function": {
        "name": "Zqtool",
        "description": "Zqabout",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates turn thoughts on: Qwen's and GLM's, and DeepSeek's."""

RenderErrors = (
    *(TemplateError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, MemoryError, RecursionError),
)
"""What a template may raise: it is a program of a stranger in jinja's sandbox."""


class Form(NamedTuple):
    """How a template wants messages: most as transformers documents it, some as OpenAI does."""

    content_is_parts: bool = False
    """Whether a content is a list of parts, as in templates of models that see images."""
    content_of_calls_is_none: bool = False
    arguments_are_text: bool = False


CONTENT_FORMS = (Form(), Form(content_is_parts=True))


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """Facts about the last answer of one shape of conversation."""

    left_out: tuple[int, ...]
    """Indexes of earlier messages that the prompt of this answer does not have."""
    tools_left_out: bool
    answer_left_out: bool
    """Whether the rendering lacks a part of the answer other than its thought."""
    closing: str
    """Text from the end mark to the end of the rendering; empty if the template puts no mark."""
    mark: str | None
    """End mark of the answer, or None if the tokenizer has none to give."""
    space: str
    """Blank text between an answer and the end of the rendering where there is no mark."""


def use_plain_template_if_none(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template the plain one; return whether it was needed.

    Text begins with the token that the tokenizer puts before every text, if it does so.
    """
    if tokenizer.chat_template:
        return False
    begins = tokenizer.bos_token is not None and (
        tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    )
    tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
    return True


class ChatTemplate:
    """A tokenizer's chat template, with what was proved about it."""

    def __init__(self, tokenizer: Any, stops: Collection[int]) -> None:
        self._tokenizer = tokenizer
        known = [*tokenizer.convert_ids_to_tokens(list(stops)), tokenizer.eos_token]
        self._stops = tuple(dict.fromkeys(token for token in known if token))
        self.special = special_tokens(tokenizer)
        self._facts: OrderedDict[str, TurnFacts] = OrderedDict()

    def render(
        self, conversation: Conversation, *, asks: bool = False, thinks: bool = False
    ) -> str:
        """Return the text of a conversation; with ``asks`` the prompt for the next answer.

        With ``thinks`` it is the prompt for an answer with a thought, which some templates do not
        give unless they are asked to (Qwen3.5's small models).

        Raises UnlearnableError if the template refuses it.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                [self._as_dict(message) for message in conversation.messages],
                tools=list(conversation.tools) or None,
                tokenize=False,
                add_generation_prompt=asks,
                **(dict.fromkeys(THINKING_SWITCHES, True) if thinks else {}),
            )
        except RenderErrors as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnlearnableError(
                Phrase("the model's chat template refuses it ({reason})", reason=reason)
            ) from error
        return text

    def facts(self, conversation: Conversation) -> TurnFacts:
        """Return what the template does with the answer that ends a conversation."""
        shape = _stand_ins(conversation)
        key = repr(shape)
        known = self._facts.get(key)
        if known is None:
            known = self._facts[key] = self._read_off(shape)
            if len(self._facts) > SHAPES_KEPT:
                self._facts.popitem(last=False)
        return known

    def _read_off(self, shape: Conversation) -> TurnFacts:
        *earlier, answer = shape.messages
        prompt = self.render(replace(shape, messages=tuple(earlier)), asks=True)
        text = self.render(shape)
        last = max((text.rfind(word) + len(word) for word in _words(answer)), default=len(text))
        behind = text[last:]
        at, mark = self._first_mark(behind)
        of_next_turn = self._mark_of_next_turn(shape) if mark is None else None
        return TurnFacts(
            left_out=tuple(
                index
                for index, message in enumerate(earlier)
                if any(word not in prompt for word in _shown_words(message))
            ),
            tools_left_out=bool(shape.tools) and "Zqtool" not in prompt,
            answer_left_out=any(word not in text for word in _shown_words(answer)),
            closing=behind[at:] if at is not None else "",
            mark=mark or of_next_turn or self._tokenizer.eos_token,
            space=behind if behind.isspace() and of_next_turn is None else "",
        )

    def _first_mark(self, behind: str) -> tuple[int | None, str | None]:
        """Return the place and text of the first token of a text that ends an answer.

        That is a token that inference stops at. A base model may have a chat template and no
        such token in it: then it is the last special one, and learnt as a new end.
        """
        stops = [(behind.find(token), token) for token in self._stops if token in behind]
        if stops:
            return min(stops)
        special = [(behind.rfind(token), token) for token in self.special if token in behind]
        return max(special, default=(None, None))

    def _mark_of_next_turn(self, shape: Conversation) -> str | None:
        """Return the stop token with which the next turn begins, as in GLM-4, or None."""
        answer = shape.messages[-1]
        following = Message("tool" if answer.calls else "user", "Zqnext")
        try:
            text = self.render(replace(shape, messages=(*shape.messages, following)))
        except UnlearnableError:
            return None
        said = text.partition("Zqnext")[0]
        last = max((said.rfind(word) + len(word) for word in _words(answer)), default=0)
        between = [(said.find(token, last), token) for token in self._stops]
        return min(((at, token) for at, token in between if at >= 0), default=(0, None))[1]

    def _as_dict(self, message: Message) -> dict[str, Any]:
        form = self._form_of_calls if message.calls else self._form
        if message.thought is not None and self._has_place_for_thoughts:
            thought, answer = message.thought.strip("\n"), message.visible.lstrip("\n")
            message = replace(message, content=answer, reasoning=thought)
        content: dict[str, Any] = {"role": message.role, "content": message.content}
        if form.content_is_parts:
            content["content"] = [{"type": "text", "text": message.content}]
        content |= message.extra
        if message.reasoning:
            content |= dict.fromkeys(REASONING_FIELDS, message.reasoning)
        if form.content_of_calls_is_none and not message.content:
            content["content"] = None
        if form.arguments_are_text:
            content["tool_calls"] = [_with_text(call) for call in content["tool_calls"]]
        return content

    @cached_property
    def _has_place_for_thoughts(self) -> bool:
        """Whether a thought in its own field is rendered: one in think tags goes there then."""
        asked, answer = _stand_ins(PLAIN_PROBE).messages
        try:
            text = self.render(Conversation((asked, replace(answer, reasoning="Zqthought"))))
        except UnlearnableError:
            return False
        return "Zqthought" in text

    @cached_property
    def _form(self) -> Form:
        return self._first_that_says(_stand_ins(PLAIN_PROBE), CONTENT_FORMS, "_form")

    @cached_property
    def _form_of_calls(self) -> Form:
        forms = [
            self._form._replace(content_of_calls_is_none=none, arguments_are_text=text)
            for text in (False, True)
            for none in (False, True)
        ]
        return self._first_that_says(_stand_ins(CALL_PROBE), forms, "_form_of_calls")

    def _first_that_says(self, probe: Conversation, forms: Sequence[Form], name: str) -> Form:
        """Return the first form in which an answer comes out of the template whole."""
        for form in forms:
            self.__dict__[name] = form
            try:
                text = self.render(probe)
            except UnlearnableError:
                continue
            if all(word in text for word in _words(probe.messages[-1])):
                return form
        return forms[0]


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts that a tokenizer reads as control tokens."""
    added = tokenizer.added_tokens_decoder.values()
    marked = [token.content for token in added if token.special]
    return tuple(dict.fromkeys([*marked, *tokenizer.all_special_tokens]))


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


PLAIN_PROBE = Conversation((Message("user", "."), Message("assistant", ".")))
CALL_PROBE = Conversation(
    (
        Message("user", "."),
        Message(
            "assistant",
            "",
            extra={
                "tool_calls": [
                    {"type": "function", "id": ".", "function": {"name": ".", "arguments": {}}}
                ]
            },
        ),
    ),
    (PLAIN_TOOL,),
)


def _stand_ins(conversation: Conversation) -> Conversation:
    """Return the conversation with a unique word instead of each content."""
    ids: dict[str, str] = {}
    return Conversation(
        tuple(
            _stand_in(message, f"Zq{index:04d}", ids)
            for index, message in enumerate(conversation.messages)
        ),
        (PLAIN_TOOL,) if conversation.tools else (),
    )


def _stand_in(message: Message, word: str, ids: dict[str, str]) -> Message:
    extra = dict(message.extra)
    if "name" in extra:
        extra["name"] = f"{word}n"
    if "tool_call_id" in extra:
        extra["tool_call_id"] = _id(extra["tool_call_id"], ids)
    if "tool_calls" in extra:
        extra["tool_calls"] = [
            _call(call, f"{word}f{number}", ids) for number, call in enumerate(extra["tool_calls"])
        ]
    return Message(
        message.role,
        _content(message, word),
        learnt=True,
        reasoning=f"{word}r" if message.reasoning else "",
        extra=extra,
    )


def _content(message: Message, word: str) -> str:
    if message.role != "assistant" or message.thought is None:
        return f"{word}c" if message.content.strip() else ""
    visible = f"{word}c" if message.visible.strip() else ""
    return f"<think>\n{word}t\n</think>\n\n{visible}"


def _call(call: Mapping[str, Any], word: str, ids: dict[str, str]) -> dict[str, Any]:
    function = {"name": f"{word}c", "arguments": {"a": f"{word}a"}}
    identified = {"id": _id(call["id"], ids)} if "id" in call else {}
    return {"type": "function", **identified, "function": function}


def _id(identity: str, ids: dict[str, str]) -> str:
    """Return a stand-in of nine characters, as Mistral's templates want them."""
    return ids.setdefault(identity, f"Zqid{len(ids):05d}")


def _words(answer: Message) -> list[str]:
    """Return the stand-ins for the contents of an answer."""
    thoughts = [answer.reasoning, answer.thought or ""]
    return [word.strip() for word in thoughts if word.strip()] + _shown_words(answer)


def _shown_words(message: Message) -> list[str]:
    """Return the stand-ins of what stays in a conversation: a thought may go with its turn."""
    calls = [(call["name"], *call["arguments"].values()) for call in message.calls]
    words = [text for call in calls for text in call]
    return [word for word in (message.visible.strip(), *words) if word]
