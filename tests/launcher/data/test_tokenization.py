"""What is tokenized, and which tokens the loss counts."""

from typing import Any

import pytest

from launcher.data.chat_template import use_plain_template_if_none
from launcher.data.conversations import Conversation, Message
from launcher.data.record_fields import UnlearnableError
from launcher.data.records import Completion, PlainText, Sample
from launcher.data.tokenization import IGNORED, Encoded, SampleTokenizer
from planner.plan.data_section import LossOn
from tests.launcher.data.chat_templates import FAMILIES, KINDS, spelled, tokenizer_of
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
    """Return the only text of a sample."""
    samples = SampleTokenizer(tokenizer, stops=[tokenizer.eos_token_id], loss_on=loss_on)
    (texts,) = samples.encode(samples.render(sample))
    if isinstance(texts, UnlearnableError):
        raise texts
    (text,) = texts
    return text


def learnt(sample: Encoded, tokenizer: Any) -> str:
    text: str = tokenizer.decode([label for label in sample.labels if label >= 0])
    return text


def test_only_answers_with_their_end_marks_are_learnt(tokenizer: Any) -> None:
    sample = encoded(TWO_TURNS, tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>Bob<|end|>"


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
    samples = SampleTokenizer(tokenizer, stops=[], loss_on="answers")
    several: list[Sample] = [PlainText("Once"), TWO_TURNS, Completion("1+1=", "2")]
    texts = samples.encode([text for sample in several for text in samples.render(sample)])
    assert texts == [[encoded(sample, tokenizer)] for sample in several]


def test_an_answer_of_weight_nothing_is_read_and_not_learnt(tokenizer: Any) -> None:
    turns = [Message(m.role, m.content, learnt=m.content != "Bob") for m in TWO_TURNS.messages]
    sample = encoded(Conversation(tuple(turns)), tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>"
    assert "Bob" in tokenizer.decode(sample.input_ids)


def test_a_tokenizer_without_an_end_mark_is_refused() -> None:
    other = byte_tokenizer()
    other.chat_template = other.chat_template.replace("<|end|>", "")
    other.eos_token = None
    samples = SampleTokenizer(other, stops=[], loss_on="answers")
    for sample in (TWO_TURNS, Completion("1+1=", "2")):
        with pytest.raises(UnlearnableError, match="the tokenizer has no end mark"):
            samples.render(sample)


def test_a_template_that_leaves_out_a_call_is_refused(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {}}}
    sample = Conversation(
        (Message("user", "Who?"), Message("assistant", "", extra={"tool_calls": [call]}))
    )
    with pytest.raises(UnlearnableError, match=r"chat template leaves out the call of find"):
        encoded(sample, tokenizer)


def test_a_tokenizer_without_template_gets_plain_headings() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert use_plain_template_if_none(tokenizer)
    assert not use_plain_template_if_none(tokenizer)
    sample = encoded(TWO_TURNS, tokenizer)
    assert learnt(sample, tokenizer) == "Ada é<|end|>Bob<|end|>"
    text = tokenizer.decode(sample.input_ids)
    assert text.startswith("### System:\nBe brief.\n\n### User:\nWho?\n\n### Assistant:\nAda é")


def test_the_plain_template_begins_as_the_tokenizer_begins_a_text() -> None:
    from tokenizers import processors

    begins = byte_tokenizer()
    begins.add_special_tokens({"bos_token": "<s>"})
    begins.chat_template = None
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], special_tokens=[("<s>", begins.bos_token_id)]
    )
    assert use_plain_template_if_none(begins)
    assert encoded(TWO_TURNS, begins).input_ids[0] == begins.bos_token_id


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Review: fine. Label: ", "good"),
        ("Label:", " good"),
        ("Label:\n", "\ngood \n"),
        ("", "good"),
        ("x ", " good"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_goes_on_from_its_prompt_alone(
    kind: str, prompt: str, completion: str
) -> None:
    """The prompt is tokenized as inference does, whatever the blanks at its end."""
    family = FAMILIES["plain"]
    tokenizer = tokenizer_of(family, kind)
    sample = encoded(Completion(prompt, completion), tokenizer)
    begin = next(i for i, label in enumerate(sample.labels) if label != IGNORED)
    asked = tokenizer(prompt)["input_ids"] if prompt else []
    first = 0 if prompt else 1
    assert sample.input_ids[: begin - first] == asked
    said = spelled(tokenizer, kind, sample.input_ids[len(asked) :], before=asked)
    expected = f" {completion}" if kind == "pieces" and not prompt else completion
    assert said == f"{expected}</s>"


def test_control_tokens_in_what_is_said_are_seen(tokenizer: Any) -> None:
    samples = SampleTokenizer(tokenizer, stops=[], loss_on="answers")
    assert samples.has_control_tokens(Completion("a<|end|>", "b"))
    assert not samples.has_control_tokens(TWO_TURNS)
