"""Checkpoints of a run: whole or not there. Imports no training stack.

A checkpoint is a folder that the trainer fills and a list of its files, written last and
after all of them have reached the disk. Without that list, or with a file that differs from
it, the folder is torn and is passed over.
"""

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.storage.json_files import write_json
from launcher.storage.whole_folders import flush_all

CONTENTS = "contents.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_CHUNK_BYTES = 2**24
_READERS = 8
"""Files that are read at a time: checksums leave Python's lock alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A whole checkpoint."""

    folder: Path
    step: int
    world_size: int
    strategy: str


def checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """
    >>> step_of(Path("run/checkpoints/checkpoint-12"))
    12
    """
    return int(checkpoint.name.rpartition("-")[2])


def seal(checkpoint: Path, *, world_size: int, strategy: str) -> None:
    """Declare it whole, once every rank has written its part."""
    flush_all(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    contents = {
        "world_size": world_size,
        "strategy": strategy,
        "files": dict(zip((_name(p, checkpoint) for p in files), _marks(files), strict=True)),
    }
    write_json(checkpoint / CONTENTS, contents)


def last_whole(folder: Path, verified: Path | None = None) -> tuple[SavedState | None, list[str]]:
    """The newest checkpoint that can be trusted, and a sentence for each newer one that cannot.

    One that was ``verified`` a moment ago is not read again.
    """
    passed_over: list[str] = []
    for step, checkpoint in _newest_first(folder):
        contents, wrong = _examine(checkpoint, read=checkpoint != verified)
        if wrong is None:
            saved = SavedState(
                folder=checkpoint,
                step=step,
                world_size=contents["world_size"],
                strategy=contents["strategy"],
            )
            return saved, passed_over
        passed_over.append(f"{checkpoint} is passed over: {wrong}")
    return None, passed_over


def last_sealed(folder: Path) -> int | None:
    """Step of the newest checkpoint with all its files in their sizes; their content is unread."""
    for step, checkpoint in _newest_first(folder):
        if _examine(checkpoint, read=False)[1] is None:
            return step
    return None


def keep_newest(folder: Path, number: int) -> None:
    """Remove the oldest sealed checkpoints, and torn ones older than what is kept."""
    sealed = 0
    for _, checkpoint in _newest_first(folder):
        if sealed >= number:
            shutil.rmtree(checkpoint)
        elif (checkpoint / CONTENTS).is_file():
            sealed += 1


def discard_torn(folder: Path) -> None:
    """Remove what no list declares whole."""
    for _, checkpoint in _newest_first(folder):
        if not (checkpoint / CONTENTS).is_file():
            shutil.rmtree(checkpoint, ignore_errors=True)


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)


def _examine(checkpoint: Path, *, read: bool) -> tuple[dict[str, Any], str | None]:
    """What a checkpoint says of itself, and what is wrong with it."""
    try:
        contents: dict[str, Any] = json.loads((checkpoint / CONTENTS).read_bytes())
        listed = {checkpoint / name: mark for name, mark in contents["files"].items()}
    except FileNotFoundError:
        return {}, "it was not written to its end"
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, f"its {CONTENTS} cannot be read"
    wrong = _of_another_size(listed)
    return contents, _damaged(listed) if read and wrong is None else wrong


def _of_another_size(listed: Mapping[Path, list[int]]) -> str | None:
    for path, (size, _) in listed.items():
        if not path.is_file():
            return f"{path.name} is missing"
        if path.stat().st_size != size:
            return f"{path.name} has {path.stat().st_size} bytes of {size}"
    return None


def _damaged(listed: Mapping[Path, list[int]]) -> str | None:
    for (path, mark), found in zip(listed.items(), _marks(list(listed)), strict=True):
        if found != mark:
            return f"{path.name} is damaged"
    return None


def _marks(files: list[Path]) -> list[list[int]]:
    """Size and CRC-32 of each."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(_mark, files))


def _mark(path: Path) -> list[int]:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return [path.stat().st_size, checksum]


def _name(path: Path, checkpoint: Path) -> str:
    return str(path.relative_to(checkpoint))
