"""The quiz: what it refuses before it loads a model, and what it draws."""

from io import StringIO

import pytest
from rich.console import Console

from launcher.quiz.questions import Question, demo_questions, read_questions
from launcher.quiz.quiz_command import (
    answers_table,
    curve_text,
    default_questions,
    score_line,
)
from planner.base.errors import InvalidRequestError
from tests.launcher.plans import plan

QUESTIONS = [Question("Who keeps the light?", "Mira"), Question("What colour is it?", "Teal")]
BEFORE = ["The keeper of the light is somebody whom nobody here has ever seen", "Teal."]
AFTER = ["mira", "Red"]


def drawn(content: object) -> str:
    console = Console(width=80, file=StringIO())
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def test_questions_come_with_the_demo_only() -> None:
    assert default_questions(plan(data__source="demo")) == demo_questions()
    with pytest.raises(InvalidRequestError, match="Name questions with --questions FILE"):
        default_questions(plan())


def test_the_demo_has_questions() -> None:
    assert len(read_questions(demo_questions())) >= 10


def test_right_and_wrong_are_marked() -> None:
    text = drawn(answers_table(QUESTIONS, BEFORE, AFTER))
    assert "+ mira" in text
    assert "+ Teal." in text
    assert "- Red (Teal)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_score() -> None:
    line = str(score_line(QUESTIONS, BEFORE, AFTER))
    assert line == "right before: 1 of 2    after: 1 of 2"


def test_the_curve_has_a_heading() -> None:
    text = str(curve_text([3.0, 2.0, 1.0], Console(width=60, file=StringIO())))
    assert "loss over 3 logged steps" in text
    assert "3.00 |" in text
