"""What is tokenized, and which tokens the loss counts."""

from pathlib import Path
from typing import Any

import pytest
import trl

from launcher.data.conversations import Conversation, Message
from launcher.data.record_fields import FieldError
from launcher.data.records import Completion, PlainText, Sample
from launcher.data.tokenization import IGNORED, Encoded, encode, render, use_plain_template_if_none
from planner.plan.data_section import LossOn
from tests.launcher.tiny_model import byte_tokenizer

TWO_TURNS = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Who?"),
        Message("assistant", "Ada é"),
        Message("user", "And?"),
        Message("assistant", "Bob"),
    )
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


def encoded(sample: Sample, tokenizer: Any, *, loss_on: LossOn = "answers") -> Encoded:
    (found,) = encode([render(sample, tokenizer)], tokenizer, loss_on=loss_on)
    return found


def learnt(sample: Encoded, tokenizer: Any) -> str:
    text: str = tokenizer.decode([label for label in sample.labels if label >= 0])
    return text


def test_only_answers_with_their_end_marks_are_learnt(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>\nBob<|end|>\n"
    assert sample.num_open_answers == 0


def test_the_whole_conversation_is_read(tokenizer: Any) -> None:
    text = tokenizer.decode(encoded(TWO_TURNS, tokenizer).input_ids)
    assert text.startswith("<|role|>system\nBe brief.<|end|>\n<|role|>user\nWho?<|end|>\n")


def test_labels_are_the_tokens_themselves(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer)
    pairs = zip(sample.input_ids, sample.labels, strict=True)
    assert all(label in (token, -100) for token, label in pairs)


def test_everything_may_be_learnt(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer, loss_on="everything")
    assert sample.labels == [IGNORED, *sample.input_ids[1:]]


def test_a_completion_is_learnt_with_the_end_of_text(tokenizer: Any) -> None:
    sample = encoded(Completion("1+1=", "2"), tokenizer)
    assert learnt(sample, tokenizer) == "2<|end|>"
    assert tokenizer.decode(sample.input_ids) == "1+1=2<|end|>"


def test_plain_text_is_learnt_whole(tokenizer: Any) -> None:
    """But for the first token, which nothing predicts."""
    assert learnt(encoded(PlainText("Once"), tokenizer), tokenizer) == "nce<|end|>"


def test_many_at_once_come_back_in_order(tokenizer: Any) -> None:
    samples: list[Sample] = [PlainText("Once"), TWO_TURNS, Completion("1+1=", "2")]
    together = encode([render(s, tokenizer) for s in samples], tokenizer, loss_on="answers")
    assert together == [encoded(sample, tokenizer) for sample in samples]


def test_an_answer_of_weight_nothing_is_read_and_not_learnt(tokenizer: Any) -> None:
    turns = [Message(m.role, m.content, learnt=m.content != "Bob") for m in TWO_TURNS.messages]
    sample = encoded(Conversation(tuple(turns)), tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>\n"
    assert "Bob" in tokenizer.decode(sample.input_ids)


def test_an_answer_without_end_mark_is_counted(tokenizer: Any) -> None:
    other = byte_tokenizer()
    other.chat_template = tokenizer.chat_template.replace("<|end|>", "")
    assert encoded(TWO_TURNS, other).num_open_answers == 2


def test_a_template_that_leaves_out_a_call_is_refused(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {}}}
    sample = Conversation(
        (Message("user", "Who?"), Message("assistant", "", extra={"tool_calls": [call]}))
    )
    with pytest.raises(FieldError, match=r"chat template leaves out the call of find"):
        render(sample, tokenizer)


TEMPLATES = Path(trl.__file__).parent / "chat_templates"
END_MARKS = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
}


@pytest.mark.parametrize("family", END_MARKS)
def test_every_turn_ends_with_a_learnt_mark_as_trl_has_it(family: str) -> None:
    """trl marks what is learnt in a template of its own for each family. That of Qwen3 has an
    empty thought before every answer, where the family's own has one before the last."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})
    tokenizer.add_tokens([END_MARKS[family], "<|user|>"], special_tokens=True)
    sample = Conversation(TWO_TURNS.messages[1:])
    tokenizer.chat_template = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    ours = learnt(encoded(sample, tokenizer), tokenizer)
    assert ours.count(END_MARKS[family]) == 2
    marked = tokenizer.apply_chat_template(
        [message.as_dict() for message in sample.messages],
        chat_template=(TEMPLATES / f"{family}_training.jinja").read_text(encoding="utf-8"),
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    pairs = zip(marked["input_ids"], marked["assistant_masks"], strict=True)
    theirs = tokenizer.decode([token for token, learnt_there in pairs if learnt_there])
    thought = "<think>\n\n</think>\n\n"
    assert _plain(ours.replace(thought, "")) == _plain(theirs.replace(thought, ""))


def _plain(text: str) -> str:
    """Some of trl's marks begin or end a line break apart from ours."""
    return "".join(text.split())


def test_a_tokenizer_without_template_gets_plain_headings() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert use_plain_template_if_none(tokenizer)
    assert not use_plain_template_if_none(tokenizer)
    sample = encoded(TWO_TURNS, tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>\n\nBob<|end|>\n\n"
    text = tokenizer.decode(sample.input_ids)
    assert text.startswith("### System:\nBe brief.\n\n### User:\nWho?\n\n### Assistant:\nAda é")


def test_a_template_that_renders_the_prompt_alone_differently(tokenizer: Any) -> None:
    """The answer begins where the two part, as with templates that add an empty thought."""
    other = byte_tokenizer()
    other.chat_template = tokenizer.chat_template.replace(
        "<|role|>assistant\n' }}{% endif", "<|role|>assistant\nthink:' }}{% endif"
    )
    sample = Conversation((Message("user", "Who?"), Message("assistant", "Ada")))
    assert learnt(encoded(sample, other), other) == "Ada<|end|>\n"
