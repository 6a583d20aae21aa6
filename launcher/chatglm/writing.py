"""The writing of a checkpoint folder, shard by shard: it appears whole, and can be resumed.

Shards are copied in small pieces into a hidden folder beside the target; a finished shard is
entered in the manifest with its SHA-256. The next attempt keeps those that still have it. When all
shards are there, the folder gets its name.
"""

import fcntl
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher.chatglm.stored_tensors import StoredTensor, read_bytes
from launcher.storage.digest import file_digest
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import shard_names, write_index
from launcher.storage.whole_folders import flush_all, require_room
from planner.base.errors import InvalidRequestError
from planner.base.output_file import flush, whole_file
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.units import format_gib

MANIFEST = "conversion.json"
"""Name of the file that lists the finished shards."""
SHARD_BYTES = 2 * 10**9
"""Bytes of a shard, at most: near the size of ChatGLM3-6B's own."""
_LOCK = ".lock"

Shard = Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointContent:
    """The content of a checkpoint to write."""

    tensors: Mapping[str, StoredTensor]
    identity: str
    """Digest of the source: finished shards of another source are not kept."""
    small_files: Callable[[Path], None]
    """Function that writes all files but the weights into a folder."""
    notes: Mapping[str, str]
    """Further entries of the manifest."""


def write_checkpoint(target: Path, content: CheckpointContent, screen: TextIO) -> None:
    """Write a checkpoint, or the rest of one that was begun; shards are announced on ``screen``.

    Raise ``InvalidRequestError`` if the file system refuses, or the disk has no room.
    """
    partial = target.with_name(f".{target.name}.partial")
    if partial.is_symlink():
        raise InvalidRequestError(
            Phrase("{partial} is a symbolic link. Remove it.", partial=partial)
        )
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _alone(partial):
            if not (target / MANIFEST).is_file():
                _write(target, partial, content, screen)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise InvalidRequestError(
            Phrase(
                "cannot write {target}: {strerror}{place}. Convert again to resume.",
                target=target,
                strerror=error.strerror or error,
                place=place,
            )
        ) from error


def _write(target: Path, partial: Path, content: CheckpointContent, screen: TextIO) -> None:
    groups = _grouped(content.tensors)
    shards: dict[str, Shard] = dict(zip(shard_names(len(groups)), groups, strict=True))
    for abandoned in partial.glob(".*.partial"):
        abandoned.unlink()
    finished = _still_whole(partial, content.identity)
    missing = {name: shard for name, shard in shards.items() if name not in finished}
    require_room(target, sum(_num_bytes(shard) for shard in missing.values()))
    manifest = {"identity": content.identity, **content.notes, "shards": finished}
    for number, (name, shard) in enumerate(missing.items(), start=1 + len(finished)):
        size = format_gib(_num_bytes(shard))
        print_text(
            Phrase(
                "converting: shard {number} of {total}, {size} GiB",
                number=number,
                total=len(shards),
                size=size,
            ),
            file=screen,
        )
        finished[name] = _write_shard(partial / name, shard)
        write_json(partial / MANIFEST, manifest)
    places = {name: file for file, shard in shards.items() for name in shard}
    write_index(partial, places, sum(map(_num_bytes, shards.values())))
    content.small_files(partial)
    (partial / _LOCK).unlink()
    flush_all(partial)
    partial.rename(target)
    flush(target.parent)


def _grouped(tensors: Mapping[str, StoredTensor]) -> list[dict[str, StoredTensor]]:
    """Return the tensors in shards, in their order, each as full as the limit allows."""
    groups: list[dict[str, StoredTensor]] = [{}]
    for name, tensor in tensors.items():
        if groups[-1] and _num_bytes(groups[-1]) + tensor.num_bytes > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = tensor
    return groups


def _num_bytes(shard: Shard) -> int:
    return sum(tensor.num_bytes for tensor in shard.values())


def _still_whole(partial: Path, identity: str) -> dict[str, dict[str, Any]]:
    """Return the entries of shards that an earlier attempt finished and that are unchanged."""
    if not (partial / MANIFEST).is_file():
        return {}
    manifest = read_json(partial / MANIFEST)
    if manifest["identity"] != identity:
        return {}
    return {
        name: entry
        for name, entry in manifest["shards"].items()
        if (partial / name).is_file() and file_digest(partial / name, "sha256") == entry["sha256"]
    }


def _write_shard(target: Path, shard: Shard) -> dict[str, Any]:
    """Write a shard and return its entry in the manifest."""
    digest = hashlib.sha256()
    with whole_file(target) as file:
        for piece in _shard_bytes(shard):
            digest.update(piece)
            file.write(piece)
    return {"sha256": digest.hexdigest(), "num_bytes": target.stat().st_size}


def _shard_bytes(shard: Shard) -> Iterator[bytes]:
    """Give the bytes of a safetensors file: length, JSON table, data.

    read: the format section of safetensors' README.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in shard.items():
        begin, end = end, end + tensor.num_bytes
        table[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield struct.pack("<Q", len(header)) + header
    for tensor in shard.values():
        for part in tensor.ranges:
            yield from read_bytes(part)


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Wait for another conversion to the same target: its target or its shards are then used."""
    with (partial / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
