"""A checkpoint folder written shard by shard: whole or not at all, and taken up where it stopped.

Shards are copied in small pieces into a hidden folder beside the target, each under a temporary
name; a finished one is entered in the manifest with its SHA-256. The next attempt keeps those
that still have it. When all is there, the folder gets its name.
"""

import fcntl
import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher.chatglm.stored import Stored, read_bytes
from launcher.storage.digest import file_digest
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import shard_names, write_index
from launcher.storage.whole_folders import flush_all
from planner.base.errors import InvalidRequestError
from planner.base.output_file import flush, whole_file
from planner.base.units import format_gib

MANIFEST = "conversion.json"
SHARD_BYTES = 2 * 10**9
"""Near the size of ChatGLM3-6B's own shards."""
_LOCK = ".lock"
_SPARE_BYTES = 64 * 2**20
"""For the tokenizer and the other small files."""

Shard = Mapping[str, Stored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a folder is to hold."""

    tensors: Mapping[str, Stored]
    identity: str
    """Of what the tensors are read from: finished shards of another one are not kept."""
    small_files: Callable[[Path], None]
    """Writes all but the weights."""
    notes: Mapping[str, str]
    """Said of the conversion in its manifest."""


def write_checkpoint(target: Path, output: Output, screen: TextIO) -> None:
    partial = target.with_name(f".{target.name}.partial")
    if partial.is_symlink():
        raise InvalidRequestError(f"{partial} is a link, which is not written through. Remove it.")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _alone(partial):
            if not (target / MANIFEST).is_file():
                _write(target, partial, output, screen)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise InvalidRequestError(
            f"cannot write {target}: {error.strerror or error}{place}. Convert again to go on."
        ) from error


def _write(target: Path, partial: Path, output: Output, screen: TextIO) -> None:
    groups = _grouped(output.tensors)
    shards: dict[str, Shard] = dict(zip(shard_names(len(groups)), groups, strict=True))
    for abandoned in partial.glob(".*.partial"):
        abandoned.unlink()
    finished = _still_whole(partial, output.identity)
    missing = {name: shard for name, shard in shards.items() if name not in finished}
    _require_room(target, sum(_num_bytes(shard) for shard in missing.values()))
    manifest = {"identity": output.identity, **output.notes, "shards": finished}
    for number, (name, shard) in enumerate(missing.items(), start=1 + len(finished)):
        size = format_gib(_num_bytes(shard))
        print(f"converting: shard {number} of {len(shards)}, {size} GiB", file=screen)
        finished[name] = _write_shard(partial / name, shard)
        write_json(partial / MANIFEST, manifest)
    places = {name: file for file, shard in shards.items() for name in shard}
    write_index(partial, places, sum(map(_num_bytes, shards.values())))
    output.small_files(partial)
    (partial / _LOCK).unlink()
    flush_all(partial)
    partial.rename(target)
    flush(target.parent)


def _grouped(tensors: Mapping[str, Stored]) -> list[dict[str, Stored]]:
    """In their order, each shard as full as the limit lets it be."""
    groups: list[dict[str, Stored]] = [{}]
    for name, tensor in tensors.items():
        if groups[-1] and _num_bytes(groups[-1]) + tensor.num_bytes > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = tensor
    return groups


def _num_bytes(shard: Shard) -> int:
    return sum(tensor.num_bytes for tensor in shard.values())


def _still_whole(partial: Path, identity: str) -> dict[str, dict[str, Any]]:
    """The shards that an earlier attempt finished and nobody changed since."""
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


def _require_room(target: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed_bytes + _SPARE_BYTES:
        raise InvalidRequestError(
            f"{target.parent} has {format_gib(free)} GiB of free disk and the converted model "
            f"needs {format_gib(needed_bytes + _SPARE_BYTES)} GiB. Make room there."
        )


def _write_shard(target: Path, shard: Shard) -> dict[str, Any]:
    """read: the format section of safetensors' README: length, JSON table, data."""
    digest = hashlib.sha256()
    with whole_file(target) as file:
        for piece in _shard_bytes(shard):
            digest.update(piece)
            file.write(piece)
    return {"sha256": digest.hexdigest(), "num_bytes": target.stat().st_size}


def _shard_bytes(shard: Shard) -> Iterator[bytes]:
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
    """One conversion at a time: another waits, and then finds the target or goes on with it."""
    with (partial / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
