"""Records are counted as an epoch sees them, wherever a file can be read without the stack."""

from pathlib import Path

import pytest

from planner.base.errors import InvalidFileError
from planner.datasets.record_count import num_records
from planner.plan.data_section import DataSection, DataSource


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n{"a": 3}', 3),
        ("a.json", '[{"a": 1}, {"a": 2}]', 2),
        ("a.json", '{"a": 1}', None),
        ("a.csv", 'q,a\nx,"two\nlines"\ny,z\n', 2),
        ("a.parquet", "PAR1", None),
    ],
)
def test_a_file(name: str, text: str, expected: int | None) -> None:
    Path(name).write_text(text, encoding="utf-8")
    assert num_records(DataSection(source=name)) == expected


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "[", "a.json: is not JSON: "),
        ("a.jsonl", '{"a":', "a.jsonl: is not JSON: "),
        ("a.jsonl", "\n", "a.jsonl: holds no records"),
        ("a.json", "[]", "a.json: holds no records"),
        ("a.csv", "q,a\n", "a.csv: holds no records"),
    ],
)
def test_a_file_that_cannot_be_learnt_from(name: str, text: str, reason: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidFileError, match=reason):
        num_records(DataSection(source=name))


def test_a_bad_record_that_is_skipped_is_counted() -> None:
    Path("a.jsonl").write_text('{"a":\n{"a": 2}\n', encoding="utf-8")
    assert num_records(DataSection(source="a.jsonl", errors="skip")) == 2


def test_bytes_that_are_no_text_do_not_matter() -> None:
    Path("a.jsonl").write_bytes(b'{"a": "\xff"}\n{"a": 2}\n')
    assert num_records(DataSection(source="a.jsonl")) == 2


@pytest.mark.parametrize("source", ["missing.jsonl", "org/records", "."])
def test_what_is_no_file_here_is_unknown(source: str) -> None:
    assert num_records(DataSection(source=source)) is None


def test_weights_and_the_demo() -> None:
    Path("a.jsonl").write_text('{"a": 1}\n' * 10, encoding="utf-8")
    sources = (DataSource(source="a.jsonl", weight=0.5), DataSource(source="a.jsonl", weight=2))
    assert num_records(DataSection(sources=sources)) == 25
    assert num_records(DataSection(source="demo")) == 96
