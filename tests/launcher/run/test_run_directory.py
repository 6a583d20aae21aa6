"""Where a run may write, found out before anything expensive starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.run.run_directory import (
    RunDirectory,
    check_may_run_in,
    create,
    directory_of,
    locked,
)
from launcher.storage.json_files import read_json, write_json
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.plans import full, plan
from tests.launcher.small_disk import small_disk


def test_a_new_folder_and_an_empty_one_may_be_used(tmp_path: Path) -> None:
    check_may_run_in(tmp_path)
    check_may_run_in(tmp_path / "runs" / "new")


def test_a_finished_run_is_never_replaced(tmp_path: Path) -> None:
    run = create(tmp_path / "run", needed_bytes=0)
    check_may_run_in(run.path)
    write_json(run.report, {})
    with pytest.raises(InvalidRequestError, match=r"already holds a finished run\. Choose"):
        check_may_run_in(run.path)


@pytest.mark.parametrize("name", ["thesis.tex", "plan.yaml"])
def test_a_folder_of_other_things_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InvalidRequestError, match="is not empty and not a run directory"):
        check_may_run_in(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InvalidRequestError, match="is a file"):
        check_may_run_in(tmp_path / "run")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequestError, match=r"cannot write .*: Not a directory\. Choose"):
        create(tmp_path / "file" / "run", needed_bytes=0)


def test_too_little_free_disk_is_named_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"GiB of free disk and the run needs about 9"):
        create(tmp_path / "run", needed_bytes=9 * 2**50)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with no free block."""
    with small_disk(tmp_path / "full", "64k") as place:
        yield place


def test_a_full_disk(full_disk: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot write .*: No space left on device"):
        create(full_disk / "run", needed_bytes=0)
    assert not (full_disk / "run" / ".probe").exists()


def test_one_launch_at_a_time(tmp_path: Path) -> None:
    run = create(tmp_path / "run", needed_bytes=0)
    with (
        locked(run),
        pytest.raises(InvalidRequestError, match="another launch is running"),
        locked(run),
    ):
        pass
    with locked(run):
        pass


def test_the_result_is_named_for_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.result(plan()).name == "adapter"
    assert run.result(plan(**full())).name == "model"


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"a"', encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"a.json:2: is not JSON"):
        read_json(tmp_path / "a.json")


def test_a_plan_may_name_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert directory_of(plan(output__directory="~/runs/x")) == Path("/home/ada/runs/x")
    assert directory_of(plan(output__directory="runs/~x")) == Path("runs/~x")
