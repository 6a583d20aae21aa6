"""The conversion of a ChatGLM checkpoint into a native one, and back."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from launcher.chatglm import config as configs
from launcher.chatglm.layout import ROTARY_TABLE, MappedTensor, Shape, tensors
from launcher.chatglm.prompt import NEXT_TURNS
from launcher.chatglm.stored_tensors import (
    ITEM_BYTES,
    ByteRange,
    StoredTensor,
    join_rows,
    read_bytes,
    read_tables,
)
from launcher.chatglm.writing import CheckpointContent, write_checkpoint
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import weight_files
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.printable import print_text

ORIGINAL = "original"
"""Folder in a native checkpoint with the small files of the one it was made from."""
KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.py",
    "*LICENSE*",
)
"""Patterns of the files that programs for the original layout read beside the weights."""
FORMAT = 1
"""Number to raise when a source is converted differently: older copies are then made again."""
_SAMPLE_BYTES = 4096


def to_native(source: Path, target: Path, screen: TextIO) -> None:
    """Convert a ChatGLM checkpoint; everything is checked before the first byte is written.

    Raise ``InvalidFileError`` for a checkpoint that cannot be converted.
    """
    from launcher.chatglm.tokenizer import rebuilt_tokenizer

    config = configs.read_config(source)
    shape = configs.read_shape(config, source / "config.json")
    stored = read_tables(files_of(source))
    known = identity(source, stored)
    rotary = stored.pop(ROTARY_TABLE, None)
    _require(stored, {mapped.original: mapped.shape for mapped in tensors(shape)}, source)
    carried = {"config": config, "rotary_table": None if rotary is None else _as_text(rotary)}
    content = configs.native_config(
        config, shape, interpolated=configs.divides_positions(source), carried=carried
    )
    tokenizer = rebuilt_tokenizer(source)
    if tokenizer is None:
        print_text(
            Phrase(
                "note: {source} has no tokenizer.model, so the copy has no tokenizer", source=source
            ),
            file=screen,
        )

    def small_files(folder: Path) -> None:
        configs.write_config(folder, content)
        _copy_kept(source, folder / ORIGINAL)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
            write_json(folder / "generation_config.json", _generation(content, tokenizer))

    converted = CheckpointContent(
        tensors=dict(_split(stored, shape)),
        identity=known,
        small_files=small_files,
        notes={"source": str(source.resolve())},
    )
    write_checkpoint(target, converted, screen)


def _generation(content: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return the generation settings: an answer also ends where another role's turn begins."""
    ends = content["eos_token_id"]
    roles = tokenizer.convert_tokens_to_ids(list(NEXT_TURNS))
    known = [index for index in roles if index != tokenizer.unk_token_id and index is not None]
    eos = sorted({*(ends if isinstance(ends, list) else [ends]), *known})
    return {"eos_token_id": eos, "pad_token_id": content["pad_token_id"]}


def to_original(source: Path, target: Path, screen: TextIO) -> None:
    """Convert a native checkpoint, trained or not, back to the layout that it came from.

    Raise ``UserError`` for one that was not made from a ChatGLM checkpoint.
    """
    carried = configs.origin(source)
    if carried is None:
        raise InvalidRequestError(
            Phrase(
                "{source} was not made from a ChatGLM checkpoint: its config.json has no {origin}.",
                source=source,
                origin=configs.ORIGIN,
            )
        )
    shape = configs.read_shape(carried["config"], source / "config.json")
    stored = read_tables(files_of(source))
    wanted = dict(part for mapped in tensors(shape) for part in mapped.parts)
    _require(stored, wanted, source)
    kept = original_files(source)
    if kept is None:
        print_text(
            Phrase(
                "note: tokenizer.model and the original's *.py were not found: copy them yourself"
            ),
            file=screen,
        )

    def small_files(folder: Path) -> None:
        if kept is not None:
            _copy_kept(kept, folder)
        configs.write_config(folder, configs.original_config(source, carried["config"]))

    fused = {mapped.original: _fused(stored, mapped, source) for mapped in tensors(shape)}
    if carried["rotary_table"] is not None:
        fused[ROTARY_TABLE] = _from_text(carried["rotary_table"])
    converted = CheckpointContent(
        tensors=fused, identity=identity(source, stored), small_files=small_files, notes={}
    )
    write_checkpoint(target, converted, screen)


def identity(folder: Path, stored: Mapping[str, StoredTensor]) -> str:
    """Return a digest that identifies a checkpoint, without reading all of it.

    It is of the small files, of every tensor's name, shape and some bytes, and of the time at which
    the weights were written, so two fine-tunes of one model differ, and so does an edit.
    """
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for small in _kept(folder):
        digest.update(f"{small.name} {small.stat().st_size}\n".encode() + small.read_bytes())
    for file in files_of(folder):
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    for name, tensor in sorted(stored.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        for part in tensor.ranges:
            assert isinstance(part, ByteRange)
            middle = ByteRange(
                part.file,
                part.offset + part.num_bytes // 2,
                min(_SAMPLE_BYTES, part.num_bytes // 2),
            )
            for piece in read_bytes(middle):
                digest.update(piece)
    return digest.hexdigest()


def original_files(native: Path) -> Path | None:
    """Return the folder of the original's small files, here or in the base of a run, if any."""
    bases = [native]
    for run in (native, native.parent):
        if (run / "inputs.json").is_file():
            bases.append(Path(read_json(run / "inputs.json")["checkpoint"]))
    return next((base / ORIGINAL for base in bases if (base / ORIGINAL).is_dir()), None)


def files_of(folder: Path) -> list[Path]:
    """Return a checkpoint's files of weights; raise ``InvalidFileError`` if there are none."""
    files = weight_files(folder)
    if not files:
        raise InvalidFileError(folder, None, Phrase("has no weights (safetensors, or .bin shards)"))
    return files


def _require(
    stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]], at: Path
) -> None:
    """Raise ``InvalidFileError`` unless there are exactly the wanted tensors, in their shapes."""
    missing = [name for name in wanted if name not in stored]
    if missing:
        more = Phrase(" and {number} more", number=len(missing) - 1) if len(missing) > 1 else ""
        raise InvalidFileError(
            at, None, Phrase("lacks {missing}{more}. Fetch it again", missing=missing[0], more=more)
        )
    for name, tensor in stored.items():
        if name not in wanted:
            raise InvalidFileError(
                at, None, Phrase("has {name}, which its config.json does not explain", name=name)
            )
        if tensor.shape != wanted[name]:
            raise InvalidFileError(
                at,
                None,
                Phrase(
                    "{name} is {shape}; its config.json says {wanted}",
                    name=name,
                    shape=_by(tensor.shape),
                    wanted=_by(wanted[name]),
                ),
            )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _split(stored: Mapping[str, StoredTensor], shape: Shape) -> Iterator[tuple[str, StoredTensor]]:
    for mapped in tensors(shape):
        first = 0
        for name, (count, *_) in mapped.parts:
            yield name, stored[mapped.original].rows(first, count)
            first += count


def _fused(stored: Mapping[str, StoredTensor], mapped: MappedTensor, source: Path) -> StoredTensor:
    parts = [stored[name] for name, _ in mapped.parts]
    if len({part.dtype for part in parts}) > 1:
        raise InvalidFileError(
            source,
            None,
            Phrase("{name} and tensors to fuse with it differ in dtype", name=mapped.parts[0][0]),
        )
    return join_rows(parts)


def _as_text(tensor: StoredTensor) -> dict[str, Any]:
    data = b"".join(piece for part in tensor.ranges for piece in read_bytes(part))
    return {"dtype": tensor.dtype, "hex": data.hex()}


def _from_text(content: Mapping[str, str]) -> StoredTensor:
    data = bytes.fromhex(content["hex"])
    return StoredTensor(content["dtype"], (len(data) // ITEM_BYTES[content["dtype"]],), (data,))


def _copy_kept(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in _kept(source):
        shutil.copyfile(file, target / file.name)


def _kept(folder: Path) -> list[Path]:
    return sorted({file for pattern in KEPT_FILES for file in folder.glob(pattern)})
