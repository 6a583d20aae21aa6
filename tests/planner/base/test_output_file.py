"""A file that appears whole or not at all."""

from pathlib import Path

import pytest

from planner.base.output_file import write_whole


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "second"):
        write_whole(path, text)
    assert path.read_text(encoding="utf-8") == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    """A surrogate has no bytes in UTF-8, so that half of the text is as far as it comes."""
    path = tmp_path / "a.json"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "second" * 10_000 + "\ud800")
    assert path.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [path]
