"""What happens beside the steps of a run."""

from typing import Any

import pytest

pytest.importorskip("trl")

from launcher.data.record_fields import UnlearnableError
from launcher.data.records import Completion, PlainText, Sample
from launcher.data.tokenization import IGNORED, SampleTokenizer
from launcher.training.callbacks import split_answer
from tests.launcher.tiny_model import byte_tokenizer


def encoded(sample: Sample) -> dict[str, Any]:
    samples = SampleTokenizer(byte_tokenizer(), stops=[], loss_on="answers")
    (texts,) = samples.encode(samples.render(sample))
    assert not isinstance(texts, UnlearnableError)
    return {"input_ids": texts[0].input_ids, "labels": texts[0].labels}


def test_what_was_asked_ends_where_the_loss_begins() -> None:
    sample = encoded(Completion("1+1=", "2"))
    asked, expected = split_answer(sample)
    assert asked + expected == sample["input_ids"]
    assert sample["labels"] == [IGNORED] * len(asked) + expected


def test_a_plain_text_is_gone_on_with_from_its_middle() -> None:
    """Every token but the first is learnt; a model that is shown one alone says anything."""
    sample = encoded(PlainText("Once upon a time"))
    asked, expected = split_answer(sample)
    assert asked + expected == sample["input_ids"]
    assert len(expected) - len(asked) in (0, 1)
