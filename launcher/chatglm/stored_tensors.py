"""Tensors as byte ranges of checkpoint files, of which only the tables are read.

Tensors are stored row by row, so rows are split and joined as ranges, and a conversion copies bytes
in small pieces, whatever the size of a shard.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from launcher.compat.torch_text import is_refused_pickle
from launcher.storage.weight_files import UNREADABLE
from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
"""Bytes per element of the dtypes that are converted, by safetensors' names."""
PIECE_BYTES = 16 * 2**20
"""Bytes that are copied at a time."""
_LARGEST_HEADER = 100_000_000
"""read: safetensors 0.8, MAX_HEADER_SIZE."""


_Size = Annotated[int, Meta(ge=0)]


class _Entry(Struct):
    """A tensor in the table of a safetensors file."""

    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of a file."""

    file: Path
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that is stored row by row."""

    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[ByteRange | bytes, ...]
    """Ranges of files that have its bytes, or the bytes themselves if they are few."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return ITEM_BYTES[self.dtype] * prod(self.shape)

    def rows(self, first: int, count: int) -> "StoredTensor":
        """Return ``count`` rows from ``first`` on; the tensor must be one range of a file."""
        [whole] = self.ranges
        assert isinstance(whole, ByteRange)
        row_bytes = whole.num_bytes // self.shape[0]
        part = ByteRange(whole.file, whole.offset + first * row_bytes, count * row_bytes)
        return StoredTensor(self.dtype, (count, *self.shape[1:]), (part,))


def join_rows(parts: Sequence[StoredTensor]) -> StoredTensor:
    """Return one tensor with the rows of all parts."""
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    ranges = tuple(piece for part in parts for piece in part.ranges)
    return StoredTensor(first.dtype, (rows, *first.shape[1:]), ranges)


def read_bytes(part: ByteRange | bytes) -> Iterator[bytes]:
    """Give the bytes of a range in small pieces; raise ``InvalidFileError`` if it is cut short."""
    if isinstance(part, bytes):
        yield part
        return
    with part.file.open("rb") as file:
        file.seek(part.offset)
        left = part.num_bytes
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise InvalidFileError(part.file, None, Phrase("became shorter while it was read"))
            left -= len(piece)
            yield piece


def read_tables(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint's files by name; raise ``InvalidFileError``."""
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _table(file):
            if name in tensors:
                raise InvalidFileError(
                    file, None, Phrase("{name} is in another shard too", name=name)
                )
            tensors[name] = tensor
    return tensors


def _table(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    read = _safetensors if file.suffix == ".safetensors" else _pickled
    for name, tensor in read(file):
        if tensor.dtype not in ITEM_BYTES:
            raise InvalidFileError(
                file,
                None,
                Phrase(
                    "{name} is {dtype} instead of 16 or 32 bit floating point",
                    name=name,
                    dtype=tensor.dtype,
                ),
            )
        yield name, tensor


def _safetensors(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Give the tensors of a file: length, JSON table, data.

    read: the format section of safetensors' README.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _LARGEST_HEADER):
            raise InvalidFileError(file, None, UNREADABLE)
        try:
            table = convert(json.loads(opened.read(length)), dict[str, Any])
            table.pop("__metadata__", None)
            entries = convert(table, dict[str, _Entry])
        except (ValueError, RecursionError) as error:
            raise InvalidFileError(file, None, UNREADABLE) from error
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        size_of_item = ITEM_BYTES.get(entry.dtype)
        whole = size_of_item is None or end - begin == prod(entry.shape) * size_of_item
        if begin > end or not whole:
            raise InvalidFileError(file, None, UNREADABLE)
        data = ByteRange(file, 8 + length + begin, end - begin)
        if data.offset + data.num_bytes > size:
            raise InvalidFileError(
                file, None, Phrase("ends before the end of {name}. Fetch it again", name=name)
            )
        yield name, StoredTensor(entry.dtype, entry.shape, (data,))


def _pickled(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Give the tensors of a pickled file, by PyTorch's reader for tensors alone, without data.

    With ``map_location="meta"`` a storage knows its offset in the file.
    """
    import torch

    from launcher.compat.torch import file_offset

    dtypes = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
    try:
        content = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # its reader raises whatever damaged bytes lead to
        refused = is_refused_pickle(error) and not _is_text(file)
        what = Phrase("has more than tensors, which is not loaded") if refused else UNREADABLE
        raise InvalidFileError(file, None, what) from error
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidFileError(file, None, Phrase("{name} is not a tensor", name=name))
        start = file_offset(tensor)
        if start is None or not tensor.is_contiguous():
            raise InvalidFileError(
                file,
                None,
                Phrase("is not stored row by row. Load and save it again with torch.save"),
            )
        offset = start + int(tensor.storage_offset()) * tensor.element_size()
        dtype = dtypes.get(tensor.dtype, str(tensor.dtype))
        data = ByteRange(file, offset, int(tensor.nbytes))
        yield name, StoredTensor(dtype, tuple(tensor.shape), (data,))


def _is_text(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(7) == b"version"
