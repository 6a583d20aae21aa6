"""Checkpoints of a run: sealed when they are whole, skipped when they are torn.

A checkpoint is a folder that the trainer fills, and a list of its files that is written last,
after all of them have reached the disk. A folder without the list, or with a file that differs
from it, is torn.
"""

import re
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct
from msgspec.json import decode

from launcher.storage.json_files import write_json
from launcher.storage.whole_folders import flush_all

CONTENTS = "contents.json"
"""Name of the list of a checkpoint's files."""
_NAME = re.compile(r"checkpoint-(\d+)")
_CHUNK_BYTES = 2**24
_READERS = 8
"""Number of files that are read at a time: checksums are computed without Python's lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A checkpoint that is whole, and what its list says of it."""

    folder: Path
    step: int
    world_size: int
    strategy: str


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the place of a step's checkpoint in the run's folder of checkpoints."""
    return folder / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step that a checkpoint was written after.

    >>> step_of(Path("run/checkpoints/checkpoint-12"))
    12
    """
    return int(checkpoint.name.rpartition("-")[2])


def seal(checkpoint: Path, *, world_size: int, strategy: str) -> None:
    """Declare a checkpoint whole; called once, when every rank has written its part."""
    flush_all(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    contents = {
        "world_size": world_size,
        "strategy": strategy,
        "files": dict(zip((_name(p, checkpoint) for p in files), _marks(files), strict=True)),
    }
    write_json(checkpoint / CONTENTS, contents)


def last_whole(folder: Path, verified: Path | None = None) -> tuple[SavedState | None, list[str]]:
    """Return the newest whole checkpoint, and a sentence for every newer one that is torn.

    The content of ``verified``, which was examined a moment ago, is not read again.
    """
    skipped: list[str] = []
    for step, checkpoint in _newest_first(folder):
        contents, wrong = _examine(checkpoint, read=checkpoint != verified)
        if contents is not None and wrong is None:
            saved = SavedState(
                folder=checkpoint,
                step=step,
                world_size=contents.world_size,
                strategy=contents.strategy,
            )
            return saved, skipped
        skipped.append(f"{checkpoint} is skipped: {wrong}")
    return None, skipped


def last_sealed(folder: Path) -> int | None:
    """Return the step of the newest checkpoint whose files have the listed sizes, or None.

    The content of the files is not read.
    """
    for step, checkpoint in _newest_first(folder):
        if _examine(checkpoint, read=False)[1] is None:
            return step
    return None


def keep_newest(folder: Path, number: int) -> None:
    """Keep the newest ``number`` sealed checkpoints; remove all that is older, torn or sealed."""
    sealed = 0
    for _, checkpoint in _newest_first(folder):
        if sealed >= number:
            shutil.rmtree(checkpoint)
        elif (checkpoint / CONTENTS).is_file():
            sealed += 1


def discard_torn(folder: Path) -> None:
    """Remove the checkpoints without a list of their files."""
    for _, checkpoint in _newest_first(folder):
        if not (checkpoint / CONTENTS).is_file():
            shutil.rmtree(checkpoint, ignore_errors=True)


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    checkpoints = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            checkpoints.append((int(match[1]), path))
    return sorted(checkpoints, reverse=True)


class _Contents(Struct):
    """The list of a checkpoint's files."""

    world_size: int
    strategy: str
    files: dict[str, tuple[int, int]]
    """Size and CRC-32 of every file, by its path in the checkpoint."""


def _examine(checkpoint: Path, *, read: bool) -> tuple[_Contents | None, str | None]:
    """Return the content of a checkpoint's list, and what is wrong with the checkpoint, if any."""
    if not (checkpoint / CONTENTS).is_file():
        return None, "it was not completed"
    try:
        contents = decode((checkpoint / CONTENTS).read_bytes(), type=_Contents)
    except (ValueError, RecursionError):
        return None, f"its {CONTENTS} cannot be read"
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in contents.files):
        return None, f"its {CONTENTS} names a file that is not in it"
    listed = {checkpoint / name: mark for name, mark in contents.files.items()}
    wrong = _wrong_size(listed)
    return contents, _damaged(listed) if read and wrong is None else wrong


def _wrong_size(listed: Mapping[Path, tuple[int, int]]) -> str | None:
    for path, (size, _) in listed.items():
        if not path.is_file():
            return f"{path.name} is missing"
        if path.stat().st_size != size:
            return f"{path.name} has {path.stat().st_size:,} bytes instead of {size:,}"
    return None


def _damaged(listed: Mapping[Path, tuple[int, int]]) -> str | None:
    for (path, mark), mark_now in zip(listed.items(), _marks(list(listed)), strict=True):
        if mark_now != mark:
            return f"{path.name} is damaged"
    return None


def _marks(files: list[Path]) -> list[tuple[int, int]]:
    """Return size and CRC-32 of every file."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(_mark, files))


def _mark(path: Path) -> tuple[int, int]:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return path.stat().st_size, checksum


def _name(path: Path, checkpoint: Path) -> str:
    return str(path.relative_to(checkpoint))
