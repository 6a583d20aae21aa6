"""Questions with known answers, and when an answer counts as right. Pure but for the file."""

import string
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from launcher.data.readers import read_records
from launcher.data.sources import DataFile
from planner.base.errors import InvalidFileError


@dataclass(frozen=True, slots=True)
class Question:
    question: str
    answer: str


def demo_questions() -> Path:
    """Phrasings that the demo's training data does not hold."""
    return Path(str(files("presets"))) / "data" / "demo-questions.jsonl"


def read_questions(path: Path) -> list[Question]:
    """Records of ``{"question": ..., "answer": ...}``; other keys are left alone."""
    found = []
    for record in read_records(DataFile(path, str(path))):
        match record.content:
            case {"question": str(question), "answer": str(answer)}:
                found.append(Question(question, answer))
            case _:
                expected = 'expected {"question": ..., "answer": ...}'
                raise record.place.error(record.problem or expected)
    if not found:
        raise InvalidFileError(path, None, "holds no questions")
    return found


def is_right(given: str, expected: str) -> bool:
    """Exact match, letter case, punctuation and spacing aside.

    >>> is_right(" odile  farrow.", "Odile Farrow"), is_right("Odile", "Odile Farrow")
    (True, False)
    """
    return _normal(given) == _normal(expected)


def _normal(text: str) -> str:
    kept = unicodedata.normalize("NFKC", text).casefold()
    kept = kept.translate(str.maketrans("", "", string.punctuation))
    return " ".join(kept.split())
