"""A ChatGLM checkpoint folder into a native one, and a native one back."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from launcher.chatglm import config as configs
from launcher.chatglm.layout import ROTARY_TABLE, Mapped, Shape, tensors
from launcher.chatglm.stored import (
    ByteRange,
    Stored,
    joined,
    read_tables,
    weight_files,
)
from launcher.chatglm.writing import Output, write_checkpoint
from planner.errors import InvalidFileError, InvalidRequestError

ORIGINAL = "original"
"""Folder inside a native checkpoint: the small files of the one it was made from."""
KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.py",
    "*LICENSE*",
)
"""What a stack that serves the original layout reads beside the weights."""
_SAMPLE_BYTES = 4096


def to_native(source: Path, target: Path, screen: TextIO) -> None:
    """Everything is checked before the first byte is written."""
    config = configs.read_config(source)
    shape = configs.read_shape(config, source / "config.json")
    stored = read_tables(_files_of(source))
    rotary = stored.pop(ROTARY_TABLE, None)
    _require_same(stored, {each.original: each.shape for each in tensors(shape)}, source)
    carried = {"config": config, "rotary_table": _values(rotary)}
    content = configs.native_config(
        config, shape, interpolated=configs.divides_positions(source), carried=carried
    )
    tokenizer = _rebuilt_tokenizer(source, config, screen)

    def small_files(folder: Path) -> None:
        configs.write_config(folder, content)
        _copy_kept(source, folder / ORIGINAL)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    output = Output(
        tensors=dict(_split(stored, shape)),
        identity=identity(source),
        small_files=small_files,
        notes={"source": str(source.resolve())},
    )
    write_checkpoint(target, output, screen)


def to_original(source: Path, target: Path, screen: TextIO) -> None:
    """A native folder, trained or not, in the layout that it came from."""
    carried = configs.origin(source)
    if carried is None:
        raise InvalidRequestError(
            f"{source} is no model made from a ChatGLM checkpoint: its config.json has no "
            f"{configs.ORIGIN}."
        )
    config = carried["config"]
    shape = configs.read_shape(config, source / "config.json")
    stored = read_tables(_files_of(source))
    wanted = {name: each for mapped in tensors(shape) for name, each in mapped.parts}
    _require_same(stored, wanted, source)
    kept = _kept_files(source)

    def small_files(folder: Path) -> None:
        configs.write_config(folder, config)
        if kept is not None:
            _copy_kept(kept, folder)
        _write_rotary(carried["rotary_table"], folder)

    fused = {each.original: _fused(stored, each, source) for each in tensors(shape)}
    output = Output(
        tensors=fused, identity=identity(source), small_files=small_files, notes={}
    )
    write_checkpoint(target, output, screen)
