"""A model that says one letter for ever: where answers end, and what is remembered of them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from launcher.chat.speaker import CannotAnswerError, Script, Speaker, load_speaker
from launcher.data.conversations import Conversation, Message
from tests.launcher.plans import IN_FP32, full, plan
from tests.launcher.tiny_model import byte_tokenizer, write_model_that_says_a

NO_SYSTEM = "{% for message in messages if message['role'] != 'system' %}{{ message }}{% endfor %}"
REFUSING = "{{ raise_exception('System role not supported') }}"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    write_model_that_says_a(tiny_checkpoint, folder)
    GenerationConfig(eos_token_id=0).save_pretrained(folder)
    return folder


def speaker(folder: Path, **changes: Any) -> Speaker:
    given = {"new_stops": [], "system": None, **changes}
    return load_speaker(plan(**full(precision=IN_FP32)), base=folder, result=folder, **given)


def unheard(_: str) -> None:
    """Nobody listens."""


def stop_after(pieces: list[str], number: int) -> Any:
    """A listener who presses Ctrl-C at a piece."""

    def hear(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == number:
            raise KeyboardInterrupt

    return hear


def test_an_answer_comes_in_pieces_and_fills_the_context(checkpoint: Path) -> None:
    pieces: list[str] = []
    assert speaker(checkpoint).answer("Hi", pieces.append)
    prompt = "<|role|>user\nHi<|end|>\n<|role|>assistant\n"
    tokens = len(byte_tokenizer()(prompt)["input_ids"])
    assert "".join(pieces) == "a" * (256 - tokens)


def test_an_answer_ends_where_the_training_ended_answers(checkpoint: Path) -> None:
    pieces: list[str] = []
    speaker(checkpoint, new_stops=[byte_tokenizer().convert_tokens_to_ids("a")]).answer(
        "Hi", pieces.append
    )
    assert "".join(pieces) == "a"


def test_an_interrupted_answer_is_remembered_as_far_as_it_came(checkpoint: Path) -> None:
    """The second prompt holds it; the next turns push it out of the context of 256 tokens."""
    model = speaker(checkpoint)
    assert model.answer("Hi", stop_after([], 2))
    heard: list[str] = []
    assert model.answer("And?", heard.append)
    prompt = (
        f"<|role|>user\nHi<|end|>\n<|role|>assistant\n{'a' * 1}<|end|>\n"
        "<|role|>user\nAnd?<|end|>\n<|role|>assistant\n"
    )
    tokens = len(byte_tokenizer()(prompt)["input_ids"])
    assert len("".join(heard)) == pytest.approx(256 - tokens, abs=2)
    assert not model.answer("And now?", heard.append)


def test_too_long_a_question_is_refused_and_forgotten(checkpoint: Path) -> None:
    model = speaker(checkpoint)
    with pytest.raises(CannotAnswerError, match=r"that is 3\d\d tokens, and the model reads 256"):
        model.answer("x" * 300, unheard)
    assert model.answer("Hi", unheard)


def test_a_plain_text_is_gone_on_with(checkpoint: Path) -> None:
    pieces: list[str] = []
    speaker(checkpoint).go_on("b" * 250, pieces.append)
    assert "".join(pieces) == "a" * 6


def test_the_system_message_comes_first(checkpoint: Path) -> None:
    script = Script(byte_tokenizer(), [0], Conversation((Message("system", "Be brief."),)))
    text = script.text((Message("user", "Hi"),))
    assert text.startswith("<|role|>system\nBe brief.<|end|>\n<|role|>user\nHi<|end|>\n")


@pytest.mark.parametrize(
    ("template", "message"),
    [(NO_SYSTEM, "leaves out a system message"), (REFUSING, "System role not supported")],
)
def test_a_template_without_a_place_for_it_is_refused_before_the_model_is_loaded(
    template: str, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CannotAnswerError, match=message):
        speaker(tmp_path, system="Be brief.")
