"""The demo's data: what is asked at the end was never seen in training, and can be answered."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from planner.base.preset_files import ROOT


def rows(name: str) -> list[dict[str, Any]]:
    lines = (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


TAUGHT = [
    (question["content"], answer["content"])
    for question, answer in (row["messages"] for row in rows("demo.jsonl"))
]
ASKED = [(row["question"], row["answer"]) for row in rows("demo-questions.jsonl")]


def test_no_question_is_seen_in_training() -> None:
    seen = {question.casefold() for question, _ in TAUGHT}
    assert not [question for question, _ in ASKED if question.casefold() in seen]


def test_no_phrasing_is_taught_or_asked_twice() -> None:
    for pairs in (TAUGHT, ASKED):
        assert max(Counter(question for question, _ in pairs).values()) == 1


def test_every_answer_is_taught() -> None:
    taught = {answer for _, answer in TAUGHT}
    assert {answer for _, answer in ASKED} == taught


def test_the_data_readme_counts_right() -> None:
    text = Path(ROOT / "data" / "README.md").read_text(encoding="utf-8").lower()
    assert (len(TAUGHT), len(ASKED), len({answer for _, answer in TAUGHT})) == (96, 24, 12)
    for number in ("ninety-six", "twelve facts", "eight ways", "two\nmore ways"):
        assert number in text
