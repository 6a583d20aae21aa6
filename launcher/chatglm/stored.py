"""Tensors as byte ranges of checkpoint files: their tables are read, never their data.

A row split or a row join of a tensor that is stored row by row is then a matter of ranges, and
a conversion copies bytes in small pieces, whatever the size of a shard.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from launcher.compat.torch_text import is_refused_pickle
from planner.base.errors import InvalidFileError

ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
"""The dtypes that weights are trained from, by safetensors' names."""
NEITHER = "is damaged, or only a Git LFS pointer (then: git lfs pull). Fetch it again"
PIECE_BYTES = 16 * 2**20
_LARGEST_HEADER = 100_000_000
"""read: safetensors 0.8, MAX_HEADER_SIZE."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    file: Path
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor, row by row."""

    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[ByteRange | bytes, ...]
    """Where its bytes are, or the few that they are."""

    @property
    def num_bytes(self) -> int:
        return ITEM_BYTES[self.dtype] * prod(self.shape)

    def rows(self, first: int, count: int) -> "Stored":
        """Of a tensor in one range of a file, ``count`` rows from ``first`` on."""
        [whole] = self.ranges
        assert isinstance(whole, ByteRange)
        row_bytes = whole.num_bytes // self.shape[0]
        part = ByteRange(whole.file, whole.offset + first * row_bytes, count * row_bytes)
        return Stored(self.dtype, (count, *self.shape[1:]), (part,))


def joined(parts: Sequence[Stored]) -> Stored:
    """The rows of all, one after the other."""
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    ranges = tuple(piece for part in parts for piece in part.ranges)
    return Stored(first.dtype, (rows, *first.shape[1:]), ranges)


def read_bytes(part: ByteRange | bytes) -> Iterator[bytes]:
    """In pieces small enough to keep none of a large tensor in memory."""
    if isinstance(part, bytes):
        yield part
        return
    with part.file.open("rb") as file:
        file.seek(part.offset)
        left = part.num_bytes
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise InvalidFileError(part.file, None, "became shorter while it was read")
            left -= len(piece)
            yield piece


def read_tables(files: Sequence[Path]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for file in files:
        for name, tensor in _table(file):
            if name in found:
                raise InvalidFileError(file, None, f"{name} is in another shard too")
            found[name] = tensor
    return found


def _table(file: Path) -> Iterator[tuple[str, Stored]]:
    read = _safetensors if file.suffix == ".safetensors" else _pickled
    for name, tensor in read(file):
        if tensor.dtype not in ITEM_BYTES:
            raise InvalidFileError(
                file, None, f"{name} is {tensor.dtype}, not 16 or 32 bit floating point"
            )
        yield name, tensor


def _safetensors(file: Path) -> Iterator[tuple[str, Stored]]:
    """read: the format section of safetensors' README: length, JSON table, data."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _LARGEST_HEADER):
            raise InvalidFileError(file, None, NEITHER)
        try:
            table: Mapping[str, Any] = json.loads(opened.read(length))
        except ValueError as error:
            raise InvalidFileError(file, None, NEITHER) from error
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        place = ByteRange(file, 8 + length + begin, end - begin)
        if place.offset + place.num_bytes > size:
            raise InvalidFileError(file, None, f"ends before the end of {name}. Fetch it again")
        yield name, Stored(entry["dtype"], tuple(entry["shape"]), (place,))


def _pickled(file: Path) -> Iterator[tuple[str, Stored]]:
    """Yield tensors of PyTorch's own reader, which may load tensors only and does not load these.

    Under ``map_location="meta"`` a storage has its place in the file.
    """
    import torch

    from launcher.compat.torch import file_offset

    dtypes = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
    try:
        content = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # its readers raise whatever damaged bytes lead to
        refused = is_refused_pickle(error) and not _is_text(file)
        what = "holds more than tensors, which is not loaded" if refused else NEITHER
        raise InvalidFileError(file, None, what) from error
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidFileError(file, None, f"{name} is no tensor")
        start = file_offset(tensor)
        if start is None or not tensor.is_contiguous():
            raise InvalidFileError(
                file, None, "is not stored row by row. Load and save it again with torch.save"
            )
        offset = start + int(tensor.storage_offset()) * tensor.element_size()
        dtype = dtypes.get(tensor.dtype, str(tensor.dtype))
        yield (
            name,
            Stored(dtype, tuple(tensor.shape), (ByteRange(file, offset, int(tensor.nbytes)),)),
        )


def _is_text(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(7) == b"version"
