"""A disk that is full at one moment of a run: one clear line, nothing torn, and the run goes on.

A real file system of a few MiB, which the run fills itself when it comes to a stage.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.run.checkpoints import last_whole
from tests.launcher.forked import Launcher
from tests.launcher.interrupted import DROPOUT, resume, rows
from tests.launcher.launching import Finished, write_plan, write_samples
from tests.launcher.small_disk import small_disk

TRAINING = {"max_steps": 20, "save_steps": 8}
NO_ROOM = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "16m") as place:
        monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        write_samples(place)
        yield place


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    write_samples(folder)
    plan_in(folder, tiny_checkpoint)
    done = Launcher().run(folder)
    assert done.code == 0, done.errors
    return done


def plan_in(folder: Path, checkpoint: Path) -> None:
    write_plan(folder, model__source=str(checkpoint), adapter=DROPOUT, training=TRAINING)


FULL = {
    "load:0": ("load)", NO_ROOM, None),
    "backward:9": ("of step 15)", NO_ROOM, 8),
    "save:16": ("save of step 16)", "the checkpoint of step 16 could not be written", 8),
    "end:20": ("save of step 20)", "the result could not be written", 16),
}
"""By the moment from which not a byte is free, that of the first write which needs a new block (a
row of the metrics among them), the reason, and the step that is saved."""


@pytest.mark.parametrize("moment", FULL)
def test_a_run_goes_on_when_there_is_room_again(
    moment: str, launcher: Launcher, disk: Path, tiny_checkpoint: Path, whole: Finished
) -> None:
    where, reason, step = FULL[moment]
    plan_in(disk, tiny_checkpoint)
    launcher.fault = f"fill@{moment}"
    failed = launcher.run(disk)
    assert failed.code == 1
    *_, line = (failed.run / "logs" / "screen.log").read_text(encoding="utf-8").splitlines()
    assert line.startswith("error: rank 0 (")
    assert where in line
    assert reason in line
    assert NO_ROOM in line
    assert "Traceback" not in failed.errors
    saved, skipped = last_whole(failed.run / "checkpoints")
    assert (saved and saved.step, skipped) == (step, [])
    assert not list(failed.run.glob(".*.partial"))

    (disk / "ballast").unlink()
    launcher.fault = ""
    done = resume(launcher, disk)
    assert done.code == 0, done.errors
    assert done.attempts[-1]["from_step"] == (step or 0)
    assert rows(done) == rows(whole)


def test_a_full_disk_before_the_data_are_kept(
    launcher: Launcher, disk: Path, tiny_checkpoint: Path, whole: Finished
) -> None:
    plan_in(disk, tiny_checkpoint)
    screen = disk / "run" / "logs" / "screen.log"  # a terminal does not lie on the disk
    screen.parent.mkdir(parents=True)
    screen.write_text("has a block\n", encoding="utf-8")
    launcher.fault = "fill@prepare:0"
    failed = launcher.run(disk)
    assert (failed.code, failed.errors) == (2, "")
    *_, line = screen.read_text(encoding="utf-8").splitlines()
    assert line.startswith("error: cannot keep the tokenized data in ")
    assert f"{NO_ROOM}. Make room, or name another place" in line
    (disk / "ballast").unlink()
    launcher.fault = ""
    assert rows(launcher.run(disk)) == rows(whole)
