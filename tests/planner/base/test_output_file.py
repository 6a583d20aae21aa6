"""Files that appear whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from planner.base.errors import InvalidRequestError
from planner.base.output_file import OutputFile, write_whole

ROOT = Path(__file__).parents[3]
WRITER = """
import sys
from pathlib import Path
from planner.base.output_file import write_whole
for _ in range(200):
    write_whole(Path("a.json"), sys.argv[1] * 100_000, durable=False)
"""


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "second"):
        write_whole(path, text)
    assert path.read_text(encoding="utf-8") == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "second" * 10_000 + "\ud800")
    assert path.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".a.json.partial", ".a.json.0000000000000000.partial"])
def test_a_planted_link_is_not_written_through(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the name could be guessed, as the second one is here."""
    monkeypatch.setattr(os, "urandom", bytes)
    victim, planted = tmp_path / "victim", tmp_path / name
    victim.write_text("precious")
    planted.symlink_to(victim)
    if name == ".a.json.partial":
        write_whole(tmp_path / "a.json", "text")
    else:
        with pytest.raises(FileExistsError):
            write_whole(tmp_path / "a.json", "text")
    assert victim.read_text() == "precious"
    assert planted.is_symlink()


def test_two_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, letter], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
        )
        for letter in "ab"
    ]
    path = tmp_path / "a.json"
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_the_text_reaches_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flushed = tmp_path / "a.json", list[tuple[bool, bool, int]]()

    def fsync(descriptor: int) -> None:
        state = os.fstat(descriptor)
        flushed.append((stat.S_ISDIR(state.st_mode), path.exists(), state.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, "text", durable=False)
    path.unlink()
    assert flushed == []
    write_whole(path, "text")
    of_file, of_folder = flushed
    assert of_file == (False, False, len("text"))
    assert of_folder[:2] == (True, True)


def test_the_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        write_whole(path, "first")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o664)
        write_whole(path, "second")
        assert path.stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    output = OutputFile(
        option="-o",
        path=tmp_path / "pipe",
        noun="a plan",
        is_untouched=lambda _text: True,
        force=True,
    )
    with pytest.raises(InvalidRequestError, match="is a device or a pipe: name a file, or -"):
        output.write("text")
