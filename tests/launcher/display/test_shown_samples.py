"""A sample as a person sees it before training: what the loss counts, marked or in colour."""

import io
from pathlib import Path

import pytest

from launcher.data.tables import TRAIN, TableWriter
from launcher.data.tokenization import IGNORED
from launcher.display.shown_samples import MOST_PARTS, Part, shortened, show_samples
from tests.launcher.tiny_model import byte_tokenizer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two samples: a question and its answer, and an answer with a control character."""
    tokenizer = byte_tokenizer()
    with TableWriter(tmp_path / TRAIN) as writer:
        for question, answer in (("Who? ", "Ada é<|end|>"), ("", "\x1b[31mred")):
            asked, said = tokenizer.encode(question), tokenizer.encode(answer)
            writer.add([*asked, *said], [IGNORED] * len(asked) + said)
    return tmp_path


def test_what_is_learnt_is_marked_in_a_pipe(table: Path) -> None:
    screen = io.StringIO()
    show_samples(str(table), byte_tokenizer(), 2, screen)
    assert "sample 1; the loss counts what is between >>> and <<<" in screen.getvalue()
    assert "Who? >>>Ada é<|end|><<<" in screen.getvalue()
    assert r">>>\x1b[31mred<<<" in screen.getvalue()


def test_what_is_learnt_is_green_on_a_terminal(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    show_samples(str(table), byte_tokenizer(), 1, screen)
    assert "\x1b[2mWho? \x1b[0m\x1b[32mAda é<|end|>\x1b[0m" in screen.getvalue()
    assert "sample 2" not in screen.getvalue()


def test_no_sample_is_shown_if_none_is_wanted(table: Path) -> None:
    screen = io.StringIO()
    show_samples(str(table), byte_tokenizer(), 0, screen)
    assert screen.getvalue() == ""


def test_what_is_long_loses_its_middle() -> None:
    parts = [Part("x" * 5000, is_learnt=bool(i % 2)) for i in range(40)]
    short = shortened(parts)
    assert len(short) == MOST_PARTS + 1
    assert all(len(part.text) < 700 for part in short)
    assert "4,400 characters" in short[0].text
