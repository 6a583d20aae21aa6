"""Answers where inference has them: after the prompt that the chat template makes for them.

Each answer is learnt after exactly the text that a model is given before it answers. Where a
template renders an earlier turn the same in the whole conversation, one text holds several
answers. Where it does not (Qwen3 cuts earlier thoughts out, Mistral moves the system message),
the conversation becomes several texts, each of which ends with the answers that only it has.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.data.chat_template import ChatTemplate, TurnFacts
from launcher.data.conversations import Conversation, Message
from launcher.data.record_fields import UnlearnableError
from planner.base.phrases import Phrase

Span = tuple[int, int]
"""Index of the first character, and of the one after the last."""

THINK, END_OF_THOUGHT = "<think>", "</think>"
LAST_SAID, FIRST_ANSWERED = "Zqlastsaid", "Zqanswered"
"""Stand-ins for the last content before an answer, and for the answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, with the prompt that inference would give."""

    prompt: str
    answer: str
    """Text that the model generates, with the mark that ends it."""
    index: int
    """Index of its message."""

    @property
    def text(self) -> str:
        return self.prompt + self.answer

    @property
    def span(self) -> Span:
        return len(self.prompt), len(self.text)


@dataclass(frozen=True, slots=True)
class Taught:
    """A text, and the answers in it that are learnt."""

    text: str
    spans: tuple[Span, ...]


def taught_texts(
    conversation: Conversation, template: ChatTemplate, *, everything: bool = False
) -> list[Taught]:
    """Return the fewest texts in which every answer follows its own prompt, in order.

    With ``everything`` the last text has all that is said, also behind the last answer: a template
    that writes this answer otherwise there (Qwen3 cuts its thought out) gives a text without
    answers for it. Raises UnlearnableError if the template cannot render the conversation.
    """
    turns = [
        turn_of(conversation, index, template)
        for index, message in enumerate(conversation.messages)
        if message.role == "assistant" and message.learnt
    ]
    whole = template.render(conversation)
    if not turns:
        return [Taught(whole, ())]
    texts: list[tuple[str, list[Span]]] = []
    last = turns[-1]
    goes_on = last.index < len(conversation.messages) - 1
    if everything and goes_on and not whole.startswith(last.text):
        texts = [(whole, []), (last.text, [])]
    for turn in reversed(turns):
        if not texts:
            texts.append((whole if whole.startswith(turn.text) else turn.text, []))
        holding = [spans for text, spans in texts if text.startswith(turn.text)]
        if not holding:
            holding = [[]]
            texts.append((turn.text, holding[0]))
        holding[-1].append(turn.span)
    return [Taught(text, tuple(reversed(spans))) for text, spans in reversed(texts)]


def turn_of(conversation: Conversation, index: int, template: ChatTemplate) -> Turn:
    """Return the answer at an index, after its prompt.

    Raises UnlearnableError if the template leaves out a part of either.
    """
    asked = replace(conversation, messages=conversation.messages[:index])
    answered = replace(conversation, messages=conversation.messages[: index + 1])
    message = conversation.messages[index]
    prompt = template.render(asked, asks=True)
    facts = template.facts(answered)
    _require_prompt(asked, prompt, facts)
    if facts.answer_left_out:
        raise UnlearnableError(*_why_left_out(message, index))
    text = template.render(answered)
    closing = facts.closing or facts.space
    if not text.endswith(closing):
        raise UnlearnableError(
            Phrase("the chat template ends this answer unlike others"), _place(index)
        )
    text = text[: len(text) - len(closing)]
    if _has_thought(message) and not text.startswith(prompt):
        prompt = template.render(asked, asks=True, thinks=True)
    if text.startswith(prompt):
        answer = text[len(prompt) :]
    else:
        answer = _behind_prompt(answered, prompt, text, template)
    if message.thought is not None and not said(message.thought, answer):
        answer = _with_thought(message, answer)
    if facts.mark is None:
        raise UnlearnableError(Phrase("the tokenizer has no end mark"), _place(index))
    _require_answer(message, answer, index)
    return Turn(prompt, answer + facts.mark, index)


def _behind_prompt(answered: Conversation, prompt: str, text: str, template: ChatTemplate) -> str:
    """Return what the model says after a prompt with which the rendering does not begin.

    The template then writes the turns before an answer otherwise once it is there, or a prompt
    opens a thought that the rendering does not have. Stand-ins show which: both texts are the
    same from the last content on up to the answer, or one begins with the other.
    """
    *earlier, answer = answered.messages
    index = len(earlier)
    before = replace(earlier[-1], content=LAST_SAID, reasoning="")
    asked = replace(answered, messages=(*earlier[:-1], before))
    bare = replace(answer, content=FIRST_ANSWERED, reasoning="", extra={})
    opened = template.render(asked, asks=True).rpartition(LAST_SAID)[2]
    full = template.render(replace(asked, messages=(*asked.messages, bare)))
    start, _, rest = full.rpartition(LAST_SAID)
    between = rest.partition(FIRST_ANSWERED)[0]
    for content in (earlier[-1].content, earlier[-1].content.strip()):
        head = start + content
        if between.startswith(opened) and text.startswith(head + opened):
            return text[len(head + opened) :]
        if text.startswith(head) and opened.rstrip().endswith(THINK):
            behind = _behind_opened_thought(answer, text[len(head) :], opened, between)
            if behind is not None:
                return behind
    raise UnlearnableError(
        Phrase("the chat template writes the turns before this answer otherwise when it is there"),
        _place(index),
    )


def _behind_opened_thought(answer: Message, text: str, opened: str, between: str) -> str | None:
    """Return the rest of a thought that the prompt has opened, and the answer after it.

    The rendering has the thought empty and closed, or does not have it.
    """
    if text.startswith(opened.rstrip()):
        return text[len(opened.rstrip()) :].lstrip()
    if opened.startswith(between) and text.startswith(between):
        thought = (answer.reasoning or answer.thought or "").strip()
        visible = text[len(between) :].lstrip("\n")
        return f"{thought}\n{END_OF_THOUGHT}\n\n{visible}"
    return None


def _has_thought(message: Message) -> bool:
    return bool(message.reasoning or message.thought)


def _with_thought(message: Message, answer: str) -> str:
    """Return an answer with the thought that the template has cut out of its content."""
    visible = message.visible.strip()
    if not answer.endswith(visible) or answer[: len(answer) - len(visible)].strip():
        return answer
    return message.content.strip()


def _require_prompt(asked: Conversation, prompt: str, facts: TurnFacts) -> None:
    if facts.tools_left_out:
        raise UnlearnableError(Phrase("the model's chat template leaves out the tools"), "tools")
    for index in facts.left_out:
        raise UnlearnableError(_left_out(asked.messages[index]), _place(index))
    for index, message in enumerate(asked.messages):
        content = message.visible if message.role == "assistant" else message.content
        if not said(content, prompt):
            raise UnlearnableError(_left_out(message), _place(index))


def _require_answer(message: Message, answer: str, index: int) -> None:
    if any(call["name"] not in answer for call in message.calls):
        raise UnlearnableError(*_why_left_out(message, index))
    for text in _texts([call["arguments"] for call in message.calls]):
        if not said(text, answer):
            raise UnlearnableError(
                Phrase("the model's chat template leaves out an argument"),
                f"{_place(index)}.tool_calls",
            )
    if not said(message.reasoning, answer):
        raise UnlearnableError(
            Phrase("the model's chat template has no place for a thought"),
            f"{_place(index)}.reasoning_content",
        )
    if not (said(message.thought or "", answer) and said(message.visible, answer)):
        raise UnlearnableError(_left_out(message), _place(index))


def _why_left_out(message: Message, index: int) -> tuple[str, str]:
    if not message.calls:
        return _left_out(message), _place(index)
    name = message.calls[-1]["name"]
    why = Phrase("the model's chat template leaves out the call of {name}", name=name)
    return why, f"{_place(index)}.tool_calls"


def said(content: str, text: str) -> bool:
    """Return whether a text has a content in it, trimmed, or as JSON writes it."""
    stripped = content.strip()
    return stripped in text or any(
        json.dumps(stripped, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (False, True)
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in nested arguments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, Sequence):
        yield from (text for item in value for text in _texts(item))


def _left_out(message: Message) -> str:
    return Phrase("the model's chat template leaves out text of role {role}", role=message.role)


def _place(index: int) -> str:
    return f"messages[{index}]"
