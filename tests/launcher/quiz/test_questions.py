"""Which answers count as right."""

from pathlib import Path

import pytest

from launcher.quiz.questions import Question, is_right, read_questions
from planner.base.errors import InvalidFileError


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("Odile Farrow", True),
        (" odile  farrow.", True),
        ("Odile Farrow!\n", True),
        ("Odile", False),
        ("The keeper is Odile Farrow", False),
        ("", False),
    ],
)
def test_exact_match_but_for_case_punctuation_and_spacing(given: str, right: bool) -> None:
    assert is_right(given, "Odile Farrow") is right


def test_questions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ada", "fact": "x"}\n', encoding="utf-8")
    assert read_questions(path) == [Question("Who?", "Ada")]


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"question": "Who?"}', r"q.jsonl:1: expected \{"), ("", "q.jsonl: holds no questions")],
)
def test_bad_questions(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidFileError, match=message):
        read_questions(path)
