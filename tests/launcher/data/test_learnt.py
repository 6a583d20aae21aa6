"""Every chat template by what is learnt with it: answers with their end marks, and no more.

Each answer must stand behind the very tokens that inference would give the model for it, be spelled
by its tokens as it was written, and end with a token that inference stops at.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from launcher.data.conversations import Conversation, Message
from launcher.data.preparation import pack
from launcher.data.record_fields import UnlearnableError
from launcher.data.tables import TRAIN, TableWriter
from launcher.data.tokenization import IGNORED, Encoded, SampleTokenizer
from launcher.display.shown_samples import samples
from planner.plan.data_section import LossOn
from tests.launcher.data.chat_templates import (
    FAMILIES,
    KINDS,
    SHIPPED,
    SHIPPED_FAMILIES,
    Family,
    all_shipped,
    spelled,
    stop_ids,
    tokenizer_of,
)

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALL = {
    "type": "function",
    "id": "abcdefghi",
    "function": {"name": "weather", "arguments": {"city": "Oslo"}},
}


def user(content: str) -> Message:
    return Message("user", content)


def answer(content: str, **more: Any) -> Message:
    return Message("assistant", content, **more)


SYSTEM = Message("system", "Be brief.")
CASES = {
    "plain": (user("Who?"), answer("Ada")),
    "system": (SYSTEM, user("Who?"), answer("Ada")),
    "turns": (user("Who?"), answer("Ada"), user("And?"), answer("Bob"), user("3?"), answer("Cid")),
    "system and turns": (SYSTEM, user("Who?"), answer("Ada"), user("And?"), answer("Bob")),
    "tools": (
        user("Weather?"),
        answer("", extra={"tool_calls": [CALL]}),
        Message("tool", "rain", extra={"tool_call_id": "abcdefghi", "name": "weather"}),
        answer("It is wet."),
        user("Sure?"),
        answer("Yes."),
    ),
    "thoughts in tags": (
        user("One?"),
        answer("<think>\nfirst thought\n</think>\n\nFirst."),
        user("Two?"),
        answer("<think>\nsecond thought\n</think>\n\nSecond."),
    ),
    "thoughts in a field": (
        user("One?"),
        answer("First.", reasoning="first thought"),
        user("Two?"),
        answer("Second.", reasoning="second thought"),
    ),
    "blank edges": (user("  Who? \n"), answer(" Ada \n"), user("\nAnd?"), answer("\n\nBob ")),
    "markup": (
        user("<b>Who</b>? {{ x }}"),
        answer("<p>Ada</p> & <b>{% if %}</b>"),
        user("```py\nx < 1\n```"),
        answer("<answer>x</answer>"),
    ),
    "same text": (user("Who?"), answer("Who?"), user("Who?"), answer("Who?")),
    "unlearnt turn": (user("Who?"), answer("Ada", learnt=False), user("And?"), answer("Bob")),
}


@dataclass(frozen=True, slots=True)
class Learnt:
    """One run of learnt tokens."""

    before: list[int]
    tokens: list[int]


def runs(text: Encoded) -> Iterator[Learnt]:
    labels, at = text.labels, 0
    while at < len(labels):
        end = at
        while end < len(labels) and labels[end] != IGNORED:
            end += 1
        if end > at:
            yield Learnt(text.input_ids[:at], text.input_ids[at:end])
        at = max(end, at + 1)


def test_every_template_that_trl_ships_is_in_the_table() -> None:
    assert set(SHIPPED_FAMILIES) == all_shipped()


def conversation(case: str) -> Conversation:
    return Conversation(CASES[case], (TOOL,) if case == "tools" else ())


@cache
def samples_of(family: Family, kind: str, loss_on: LossOn) -> SampleTokenizer:
    tokenizer = tokenizer_of(family, kind)
    return SampleTokenizer(tokenizer, stops=stop_ids(family, tokenizer), loss_on=loss_on)


def taught(
    sample: Conversation, family: Family, kind: str, loss_on: LossOn = "answers"
) -> list[Encoded]:
    """Return the texts of a sample, or raise UnlearnableError."""
    samples = samples_of(family, kind, loss_on)
    texts = list[Encoded]()
    for text in samples.encode(samples.render(sample)):
        if isinstance(text, UnlearnableError):
            raise text
        texts += text
    return texts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_with_their_end_marks_are_learnt_and_no_more(
    name: str, case: str, kind: str
) -> None:
    family, sample = FAMILIES[name], conversation(case)
    tokenizer = tokenizer_of(family, kind)
    refused = family.refused.get(case)
    if refused is not None:
        with pytest.raises(UnlearnableError, match=refused):
            taught(sample, family, kind)
        return
    learnt = [run for text in taught(sample, family, kind) for run in runs(text)]
    learnt.sort(key=lambda run: len(run.before))
    answers = [
        (replace(sample, messages=sample.messages[:index]), message)
        for index, message in enumerate(sample.messages)
        if message.role == "assistant" and message.learnt
    ]
    assert len(learnt) == len(answers)
    for run, (asked, message) in zip(learnt, answers, strict=True):
        after_tool = asked.messages[-1].role == "tool"
        said = spelled(tokenizer, kind, run.tokens, before=run.before)
        assert said in family.expected(message, after_tool=after_tool)
        assert run.before == family.prompt(asked, message, tokenizer)


@pytest.mark.parametrize("case", ["turns", "tools", "thoughts in tags", "thoughts in a field"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_question_after_the_last_answer_is_learnt_with_everything(name: str, case: str) -> None:
    """The answers stay as they are learnt without it."""
    family, sample = FAMILIES[name], conversation(case)
    if case in family.refused:
        pytest.skip("the template cannot say it")
    tokenizer = tokenizer_of(family, "bytes")
    asked = replace(sample, messages=(*sample.messages, user("Zqlater?")))
    texts = taught(asked, family, "bytes", "everything")
    learnt = ["".join(tokenizer.decode(run.tokens) for run in runs(text)) for text in texts]
    assert ["Zqlater?" in text for text in learnt] == [False] * (len(texts) - 1) + [True]
    assert sample.messages[-1].visible.strip() in "".join(learnt)
    for text in taught(asked, family, "bytes"):
        for run in runs(text):
            whole = tokenizer.decode(run.before + run.tokens)
            assert any(tokenizer.decode(each.input_ids).startswith(whole) for each in texts)


@pytest.mark.parametrize("case", ["plain", "system", "turns", "tools", "blank edges", "markup"])
@pytest.mark.parametrize(
    "name", [n for n in SHIPPED_FAMILIES if (SHIPPED / f"{n}_training.jinja").is_file()]
)
def test_trl_marks_what_is_learnt(name: str, case: str) -> None:
    """trl marks answers in a template of its own per family. Where that renders the same text,
    every learnt token is marked; what is marked beside is blank, opens the answer or ends the text.
    """
    family, sample = FAMILIES[name], conversation(case)
    tokenizer = tokenizer_of(family, "bytes")
    if case in family.refused:
        pytest.skip("the template cannot say it")
    if case == "tools" and family.opening_after_tool is not None:
        pytest.skip("trl does not mark the heading that the template's own prompt lacks")
    template = (SHIPPED / f"{name}_training.jinja").read_text(encoding="utf-8")
    messages = [family.as_dict(message) for message in sample.messages]
    marked = tokenizer.apply_chat_template(
        messages,
        tools=list(sample.tools) or None,
        chat_template=template,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    for text in taught(sample, family, "bytes"):
        length = len(text.input_ids)
        if text.input_ids != marked["input_ids"][:length]:
            continue
        mask = marked["assistant_masks"][:length]
        assert all(
            bool(kept) or label == IGNORED for kept, label in zip(mask, text.labels, strict=True)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_packed_texts_learn_what_loose_ones_do(kind: str, tmp_path: Path) -> None:
    """Texts of every family and case together, packed into rows."""
    loose = []
    for family in FAMILIES.values():
        for case in set(CASES) - set(family.refused):
            loose += taught(conversation(case), family, kind)
    with TableWriter(tmp_path / TRAIN) as table:
        for text in loose:
            table.add(text.input_ids, text.labels)
    length = max(len(text.input_ids) for text in loose)
    num_rows = pack(tmp_path / TRAIN, length)
    assert num_rows < len(loose) / 2
    assert sorted(samples(str(tmp_path))) == sorted((t.input_ids, t.labels) for t in loose)
