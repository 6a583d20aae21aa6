"""Folders that appear whole or not at all, whoever else makes one of the same name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.storage.whole_folders import one_maker, whole_folder
from tests.launcher.launching import environment


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_when_it_is_full(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with whole_folder(target) as partial:
        (partial / "file").write_text("text")
        assert not target.exists()
        assert partial.parent == target.parent
    assert names(target) == ["file"]
    assert names(target.parent) == ["target"]


def test_nothing_is_left_where_filling_fails(tmp_path: Path) -> None:
    def fill_half() -> None:
        with whole_folder(tmp_path / "target") as partial:
            (partial / "file").touch()
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fill_half()
    assert names(tmp_path) == []


def test_a_second_maker_leaves_the_first_one_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def make_twice() -> None:
        with whole_folder(target) as late, whole_folder(target) as early:
            (late / "late").touch()
            (early / "early").touch()

    with pytest.raises(OSError, match="not empty"):
        make_twice()
    assert names(target) == ["early"]
    assert names(tmp_path) == ["target"]


def test_what_is_abandoned_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".target.0123456789abcdef.partial" / "deep").mkdir(parents=True)
    (tmp_path / ".other.0123456789abcdef.partial").mkdir()
    with whole_folder(tmp_path / "target"):
        pass
    assert names(tmp_path) == [".other.0123456789abcdef.partial", "target"]


KILLED = """
import os, signal
from pathlib import Path
from launcher.storage.whole_folders import one_maker, whole_folder
target = Path("target")
with one_maker(target), whole_folder(target) as partial:
    (partial / "half").write_text("of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_maker_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    """Neither the folder, nor a part of it, nor a lock that the next one would wait for."""
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(command, cwd=tmp_path, env=environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    target = tmp_path / "target"
    assert not target.exists()
    with one_maker(target), whole_folder(target) as partial:
        (partial / "whole").touch()
    assert names(target) == ["whole"]
    assert names(tmp_path) == [".target.lock", "target"]


@pytest.mark.parametrize("name", [".target.partial", ".target.0123456789abcdef.partial"])
def test_a_planted_link_is_neither_filled_nor_emptied(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (tmp_path / name).symlink_to(victim)
    with whole_folder(tmp_path / "target") as partial:
        (partial / "file").touch()
    assert names(victim) == ["precious"]
    assert names(tmp_path / "target") == ["file"]


def test_its_files_reach_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, flushed = tmp_path / "target", list[tuple[str, bool]]()

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((path.name, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_folder(target) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file").touch()
    before = {name for name, is_named in flushed if not is_named}
    assert before == {"deep", "file", partial.name}
    assert flushed[-1] == (tmp_path.name, True)
