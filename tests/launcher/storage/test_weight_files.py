"""Files of weights whose table does not fit them are refused before anything is loaded."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.storage.weight_files import require_readable, whole_weights
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.small_disk import small_disk


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(64), "b": torch.ones(3, 5)}, file)
    return file


def test_whole_files_are_readable(weights: Path) -> None:
    require_readable([weights])


def _table(length: int, table: object) -> bytes:
    return struct.pack("<Q", length) + json.dumps(table).encode()


DAMAGED = {
    "empty": b"",
    "cut in its length": b"\x10\x00",
    "a length beyond all": _table(2**62, {}),
    "a length beyond the file": _table(10_000, {}),
    "no table": struct.pack("<Q", 4) + b"\xff\xfe\x00\x01",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "data beyond the end": _table(
        63, {"a": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}
    ),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(InvalidFileError, match="is damaged, or only a Git LFS pointer"):
        require_readable([file])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_fetched_in_part_is_refused(weights: Path, share: float) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InvalidFileError, match="Fetch it again"):
        require_readable([weights])


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """safetensors has an error of its own for it."""
    with small_disk(tmp_path / "disk", "256k") as disk:
        with (
            pytest.raises(InvalidRequestError, match=r"^cannot write .*/model: .*No space left"),
            whole_weights(disk / "model", remedy="Make room.") as partial,
        ):
            save_file({"a": torch.zeros(2**20)}, partial / "model.safetensors")
        assert not list(disk.iterdir())
