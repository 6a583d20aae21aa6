"""Questions with known answers, and when an answer counts as right."""

import string
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from launcher.data.readers import read_records
from launcher.data.sources import DataFile
from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer."""

    question: str
    answer: str


def demo_questions() -> Path:
    """Return the file of the demo's questions, whose wording is not in its training data."""
    return Path(str(files("presets"))) / "data" / "demo-questions.jsonl"


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file of ``{"question": ..., "answer": ...}`` records.

    Other keys are ignored. Raises InvalidFileError for another record, or if there is none.
    """
    questions = []
    for record in read_records(DataFile(path, str(path))):
        match record.content:
            case {"question": str(question), "answer": str(answer)}:
                questions.append(Question(question, answer))
            case _:
                expected = 'expected {"question": ..., "answer": ...}'
                raise record.place.error(record.problem or expected)
    if not questions:
        raise InvalidFileError(path, None, Phrase("holds no questions"))
    return questions


def is_right(given: str, expected: str) -> bool:
    """Return whether two answers are equal except in letter case, punctuation and spacing.

    >>> is_right(" odile  farrow.", "Odile Farrow"), is_right("Odile", "Odile Farrow")
    (True, False)
    """
    return _normal(given) == _normal(expected)


def _normal(text: str) -> str:
    kept = unicodedata.normalize("NFKC", text).casefold()
    kept = kept.translate(str.maketrans("", "", string.punctuation))
    return " ".join(kept.split())
