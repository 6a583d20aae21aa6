"""A checkpoint is whole, or it is skipped with the reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.run.checkpoints import (
    CONTENTS,
    checkpoint_folder,
    discard_torn,
    keep_newest,
    last_sealed,
    last_whole,
    seal,
)


def saved(folder: Path, step: int) -> Path:
    checkpoint = checkpoint_folder(folder, step)
    (checkpoint / "states").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights" * 100)
    (checkpoint / "states" / "rank-0.pt").write_bytes(b"moments" * 50)
    return checkpoint


def whole(folder: Path, step: int) -> Path:
    checkpoint = saved(folder, step)
    seal(checkpoint, world_size=2, strategy="zero2")
    return checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_one_is_found_with_its_ranks(tmp_path: Path) -> None:
    for step in (9, 10):
        whole(tmp_path, step)
    found, skipped = last_whole(tmp_path)
    assert found is not None
    assert (found.step, found.world_size, found.strategy) == (10, 2, "zero2")
    assert skipped == []


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert last_whole(tmp_path / "none") == (None, [])


def _cut(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"weights" * 99)


def _flip(checkpoint: Path) -> None:
    (checkpoint / "states" / "rank-0.pt").write_bytes(b"momentS" * 50)


def _lose(checkpoint: Path) -> None:
    (checkpoint / "states" / "rank-0.pt").unlink()


def _unseal(checkpoint: Path) -> None:
    (checkpoint / CONTENTS).unlink()


def _garble(checkpoint: Path) -> None:
    (checkpoint / CONTENTS).write_text('{"files": ', encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "model.safetensors has 693 bytes instead of 700"),
        (_flip, "rank-0.pt is damaged"),
        (_lose, "rank-0.pt is missing"),
        (_unseal, "it was not completed"),
        (_garble, "its contents.json cannot be read"),
    ],
)
def test_a_torn_one_is_skipped_for_the_one_before(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    whole(tmp_path, 2)
    newest = whole(tmp_path, 4)
    damage(newest)
    found, skipped = last_whole(tmp_path)
    assert found is not None
    assert found.step == 2
    assert skipped == [f"{newest} is skipped: {reason}"]
    assert last_sealed(tmp_path) == (4 if damage is _flip else 2)


def test_the_oldest_go_and_torn_ones_do_not_count(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        whole(tmp_path, step)
    saved(tmp_path, 5)
    saved(tmp_path, 8)
    keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5", "checkpoint-6", "checkpoint-8"]
    discard_torn(tmp_path)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
