"""What is tokenized, and which tokens the loss counts."""

from typing import Any

import pytest

from launcher.records import Completion, Conversation, Message, PlainText, Sample
from launcher.tokenization import Encoded, LossOn, encode, use_plain_template_if_none
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


def encoded(
    sample: Sample, tokenizer: Any, *, length: int = 1000, loss_on: LossOn = "answers"
) -> Encoded:
    return encode(sample, tokenizer, sequence_length=length, loss_on=loss_on)


def learnt(sample: Encoded, tokenizer: Any) -> str:
    text: str = tokenizer.decode([label for label in sample.labels if label >= 0])
    return text


def test_only_answers_with_their_end_marks_are_learnt(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>\nBob<|end|>\n"
    assert not sample.truncated


def test_the_whole_conversation_is_read(tokenizer: Any) -> None:
    text = tokenizer.decode(encoded(TWO_TURNS, tokenizer).input_ids)
    assert text.startswith("<|role|>system\nBe brief.<|end|>\n<|role|>user\nWho?<|end|>\n")


def test_labels_are_the_tokens_themselves(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer)
    pairs = zip(sample.input_ids, sample.labels, strict=True)
    assert all(label in (token, -100) for token, label in pairs)


def test_everything_may_be_learnt(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer, loss_on="everything")
    assert sample.labels == sample.input_ids


def test_a_completion_is_learnt_with_the_end_of_text(tokenizer: Any) -> None:
    sample = encoded(Completion("1+1=", "2"), tokenizer)
    assert learnt(sample, tokenizer) == "2<|end|>"
    assert tokenizer.decode(sample.input_ids) == "1+1=2<|end|>"


def test_plain_text_is_learnt_whole(tokenizer: Any) -> None:
    assert learnt(encoded(PlainText("Once"), tokenizer), tokenizer) == "Once<|end|>"


def test_a_long_sample_is_cut_at_its_end(tokenizer: Any) -> None:
    whole = encoded(TWO_TURNS, tokenizer)
    cut = encoded(TWO_TURNS, tokenizer, length=20)
    assert cut.input_ids == whole.input_ids[:20]
    assert cut.truncated
    assert not cut.has_labels


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
