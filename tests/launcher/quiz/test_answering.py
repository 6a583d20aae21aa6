"""Where an answer ends: at every token at which the model stops, not only the tokenizer's."""

from pathlib import Path

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerBase

from launcher.quiz.answering import MAX_NEW_TOKENS, answers_before_and_after
from tests.launcher.plans import IN_FP32, full, plan
from tests.launcher.tiny_model import write_model_that_says_a


@pytest.mark.parametrize(
    ("settings", "new_stops", "answer"),
    [
        (["<|end|>"], [], MAX_NEW_TOKENS * "a"),
        (["<|end|>", "a"], [], "a"),
        (["<|end|>"], ["a"], "a"),
        ([], [], MAX_NEW_TOKENS * "a"),
    ],
)
def test_an_answer_ends_where_the_model_stops(
    settings: list[str], new_stops: list[str], answer: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The model says nothing but the letter a."""
    tokenizer = write_model_that_says_a(tiny_checkpoint, tmp_path)
    stops = tokenizer.convert_tokens_to_ids(settings)
    GenerationConfig(eos_token_id=stops or None).save_pretrained(tmp_path)
    both = answers_before_and_after(
        plan(**full(precision=IN_FP32)),
        base=tmp_path,
        result=tmp_path,
        new_stops=tokenizer.convert_tokens_to_ids(new_stops),
        questions=["Who?"],
    )
    assert both == ([answer], [answer])


def test_an_answer_that_ends_inside_a_character_loses_its_part(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_that_says_a(tiny_checkpoint, tmp_path)
    decoded = "\u7b54\u6848\ufffd"
    monkeypatch.setattr(PreTrainedTokenizerBase, "batch_decode", lambda *_, **__: [decoded])
    both = answers_before_and_after(
        plan(**full(precision=IN_FP32)),
        base=tmp_path,
        result=tmp_path,
        new_stops=[],
        questions=["Who?"],
    )
    assert both == ([decoded[:2]], [decoded[:2]])
