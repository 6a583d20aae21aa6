"""A checkpoint in MXFP4, unpacked once into a plain one in 16 bit.

gpt-oss is published so, with the experts of a layer in blocks of 32 numbers that share a scale
(OCP Microscaling Formats, version 1.0). Nothing trains in that format, and what QLoRA packs into
its own, or LoRA adds to, is the 16-bit weight.
"""

import hashlib
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from launcher.base_model.gguf import MAKE_ROOM
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import (
    is_complete,
    safetensors_files,
    shard_names,
    whole_weights,
    write_index,
)
from launcher.storage.whole_folders import one_maker, require_room
from planner.base.errors import InvalidFileError, UserError
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.units import FP32_BYTES
from planner.base.user_folders import cache_directory

BLOCKS, SCALES = "_blocks", "_scales"
"""Endings of the names of the two tensors that a matrix of all experts is stored as."""
NUMBERS_PER_BYTE = 2
SIXTEEN_BIT_BYTES = 2
SHARD_BYTES = 4 * 10**9
"""Bytes of a shard, at most: it is written from host memory."""
_READ_BYTES = 2**16


class _Tensor(NamedTuple):
    """A tensor of the plain checkpoint, and what it is made of."""

    name: str
    num_bytes: int
    stored: dict[str, Path]
    """File of each tensor that is read for it: of blocks and of scales where it is packed."""


def is_packed(folder: Path) -> bool:
    """Return whether a checkpoint folder says that its weights are in MXFP4."""
    stated = read_json(folder / "config.json").get("quantization_config")
    return isinstance(stated, dict) and stated.get("quant_method") == "mxfp4"


def unpacked_checkpoint(folder: Path, screen: TextIO) -> Path:
    """Return the plain copy of a checkpoint in MXFP4, which the first call makes.

    Raise ``UserError`` if it is damaged, or there is no room for it.
    """
    target = cache_directory() / f"mxfp4-{_identity(folder)[:16]}"
    with one_maker(target):
        if is_complete(target):
            return target
        if target.exists():
            raise UserError(
                Phrase("{target} is damaged. Delete it and launch again.", target=target)
            )
        tensors = [*_tensors(folder)]
        require_room(target, sum(tensor.num_bytes for tensor in tensors))
        print_text(
            Phrase(
                "unpacking {source} from MXFP4 into 16 bit (once) to {target}",
                source=folder,
                target=target,
            ),
            file=screen,
        )
        with whole_weights(target, remedy=MAKE_ROOM) as partial:
            _write_weights(tensors, partial)
            _write_small_files(folder, partial)
    return target


def _identity(folder: Path) -> str:
    """Return a digest of the configuration, and of the size and the beginning of each file, which
    has its table."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in safetensors_files(folder):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_READ_BYTES))
    return digest.hexdigest()


def _tensors(folder: Path) -> Iterator[_Tensor]:
    from safetensors import safe_open

    places: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    for path in safetensors_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                part = file.get_slice(name)
                width = FP32_BYTES if part.get_dtype() == "F32" else SIXTEEN_BIT_BYTES
                places[name], sizes[name] = path, prod(part.get_shape()) * width
    for name, path in places.items():
        whole = name.removesuffix(BLOCKS)
        if name.endswith(BLOCKS):
            if whole + SCALES not in places:
                raise InvalidFileError(
                    path, None, Phrase("has {name} without its scales", name=name)
                )
            parts = {name: path, whole + SCALES: places[whole + SCALES]}
            yield _Tensor(whole, NUMBERS_PER_BYTE * sizes[name], parts)
        elif name.removesuffix(SCALES) + BLOCKS not in places:
            yield _Tensor(name, sizes[name], {name: path})


def _write_weights(tensors: list[_Tensor], target: Path) -> None:
    from safetensors.torch import save_file

    shards: list[list[_Tensor]] = [[]]
    for tensor in tensors:
        held = sum(each.num_bytes for each in shards[-1])
        if shards[-1] and held + tensor.num_bytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    names = shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        content = {tensor.name: _read(tensor) for tensor in shard}
        save_file(content, target / name, metadata={"format": "pt"})
    places = {
        tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    write_index(target, places, sum(tensor.num_bytes for tensor in tensors))


def _read(tensor: _Tensor) -> Any:
    from safetensors import safe_open
    from transformers.integrations import convert_moe_packed_tensors

    parts = []
    for name, path in tensor.stored.items():
        with safe_open(path, framework="pt") as file:
            parts.append(file.get_tensor(name))
    return parts[0] if len(parts) == 1 else convert_moe_packed_tensors(*parts)


def _write_small_files(folder: Path, target: Path) -> None:
    """Write the configuration without its quantization, and copy what else is no weight."""
    content = read_json(folder / "config.json")
    del content["quantization_config"]
    for file in folder.iterdir():
        is_weight = file.name.endswith((".safetensors", ".index.json")) or file.suffix == ".bin"
        if file.is_file() and not is_weight:
            shutil.copyfile(file, target / file.name)
    write_json(target / "config.json", content)
