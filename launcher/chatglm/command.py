"""``launch --convert SRC DST``, and the conversion that a launch does by itself."""

from pathlib import Path
from typing import Any, Literal, TextIO

from launcher.chatglm import adapter as adapters
from launcher.chatglm.config import is_original, origin, read_config
from launcher.chatglm.conversion import files_of, identity, to_native, to_original
from launcher.chatglm.stored_tensors import read_tables
from launcher.chatglm.writing import MANIFEST
from launcher.storage import adapter_files
from launcher.storage.json_files import read_json
from launcher.storage.regular_files import require_regular_files
from launcher.storage.whole_folders import one_maker
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.user_folders import cache_directory

WeightLayout = Literal["native", "chatglm"]


def native_checkpoint(source: Path, screen: TextIO) -> Path:
    """Return the native copy of a ChatGLM checkpoint, which the first call makes.

    Raise ``InvalidFileError`` if it cannot be converted.
    """
    target = cache_directory() / f"chatglm-{identity(source, read_tables(files_of(source)))[:16]}"
    with one_maker(target):
        if target.exists() and not _is_whole(target):
            raise InvalidRequestError(
                Phrase("{target} is damaged. Delete it and launch again.", target=target)
            )
        if not target.exists():
            print_text(
                Phrase(
                    "converting {source} for transformers' GLM (once) to {target}",
                    source=source,
                    target=target,
                ),
                file=screen,
            )
            to_native(source, target, screen)
    return target


def _is_whole(folder: Path) -> bool:
    """Return whether a converted checkpoint has every shard in its size."""
    if not (folder / MANIFEST).is_file():
        return False
    shards: dict[str, Any] = read_json(folder / MANIFEST)["shards"]
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["num_bytes"]
        for name, entry in shards.items()
    )


def convert(source: Path, target: Path, to: WeightLayout, screen: TextIO) -> None:
    """Convert a checkpoint, an adapter or the result of a run into a new folder.

    Raise ``UserError`` if it cannot be converted, or the target is not free.
    """
    if not source.is_dir():
        raise InvalidRequestError(
            Phrase(
                "{source} is not a folder. Name a checkpoint, an adapter or a run.", source=source
            )
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidRequestError(
            Phrase("{target} already exists. Name another place, or move it away.", target=target)
        )
    require_regular_files(source)
    source = _result_of_run(source)
    require_regular_files(source)
    if (source / adapter_files.CONFIG).is_file():
        _convert_adapter(source, target, to)
    elif to == "native":
        _require_original(source)
        to_native(source, target, screen)
    else:
        _require_native(source)
        to_original(source, target, screen)


def _result_of_run(folder: Path) -> Path:
    """Return the trained model or adapter of a run directory; any other folder as it is."""
    if (folder / "config.json").is_file() or (folder / adapter_files.CONFIG).is_file():
        return folder
    for name in ("model", "adapter"):
        if (folder / name).is_dir():
            return folder / name
    raise InvalidRequestError(
        Phrase(
            "{folder} has neither config.json nor {config}.",
            folder=folder,
            config=adapter_files.CONFIG,
        )
    )


def _require_original(source: Path) -> None:
    if is_original(source):
        return
    if origin(source) is not None:
        raise InvalidRequestError(
            Phrase("{source} is already native. --to chatglm converts it back.", source=source)
        )
    kind = read_config(source).get("model_type")
    raise InvalidRequestError(
        Phrase(
            "{source} is not a ChatGLM checkpoint: its model_type is {kind!r}. Only "
            "ChatGLM2, ChatGLM3 and GLM-4's first layout have to be converted.",
            source=source,
            kind=kind,
        )
    )


def _require_native(source: Path) -> None:
    if is_original(source):
        raise InvalidRequestError(
            Phrase("{source} is already in ChatGLM's own layout.", source=source)
        )


def _convert_adapter(source: Path, target: Path, to: WeightLayout) -> None:
    config, weights = adapters.read_adapter(source)
    if adapters.is_original(weights) == (to == "chatglm"):
        raise InvalidRequestError(
            Phrase("{source} is already an adapter of that layout.", source=source)
        )
    change = adapters.to_original if to == "chatglm" else adapters.to_native
    converted, tensors = change(config, weights, source / adapter_files.WEIGHTS)
    base = _original_of(Path(str(config.get("base_model_name_or_path"))))
    if to == "chatglm" and base is not None:
        converted["base_model_name_or_path"] = base
    adapters.write_adapter(target, converted, tensors)


def _original_of(base: Path) -> str | None:
    """Return the path of the checkpoint that a native base was made from; None if unknown."""
    if not (base / MANIFEST).is_file():
        return None
    source: str | None = read_json(base / MANIFEST).get("source")
    return source
