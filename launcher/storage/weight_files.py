"""The files that hold a model's weights, and the index of several, by transformers' names.

A folder may hold another copy of the weights under another name, as Mistral's and Llama's
repositories on the hub do in ``consolidated.safetensors``; it is not read.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from launcher.storage.json_files import read_json, write_json
from launcher.storage.whole_folders import whole_folder
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.phrases import Phrase

SINGLE = "model.safetensors"
PICKLED = "pytorch_model.bin"
UNREADABLE = Phrase("is damaged, or only a Git LFS pointer (then: git lfs pull). Fetch it again")
"""Reason why a file of weights cannot be read."""
OTHER_COPIES = ["consolidated*", "original/*"]
"""Patterns of other copies in the repositories of Mistral and Llama, which are not fetched."""


def weight_files(folder: Path) -> list[Path]:
    """Return a checkpoint's files of weights: safetensors, else pickled ones, else none.

    Raise ``InvalidFileError`` if an index is broken or names a file that is not there.
    """
    return safetensors_files(folder) or _files(folder, PICKLED)


def safetensors_files(folder: Path) -> list[Path]:
    """Return a checkpoint's safetensors files; raise as ``weight_files`` does."""
    return _files(folder, SINGLE)


def _files(folder: Path, single: str) -> list[Path]:
    """Return the single file if it is there, else those of the index.

    read: transformers/modeling_utils.py at 5.23, _get_resolved_checkpoint_files: the single file
    takes precedence over an index.
    """
    index = _index(folder, single)
    if (folder / single).is_file():
        return [folder / single]
    return _indexed(index) if index.is_file() else []


def _index(folder: Path, single: str) -> Path:
    return folder / f"{single}.index.json"


def _indexed(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InvalidFileError(index, None, Phrase("has no weight_map. Fetch it again"))
    names = sorted(set(map(str, places.values())))
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or not name.isprintable():
            raise InvalidFileError(
                index, None, Phrase("names {name!r}, which is not in its folder", name=name)
            )
    files = [index.parent / name for name in names]
    for file in files:
        if not file.is_file():
            raise InvalidFileError(
                index, None, Phrase("names {name}, which is missing. Fetch it", name=file.name)
            )
    return files


def require_readable(files: Iterable[Path]) -> None:
    """Raise ``InvalidFileError`` if the table of a safetensors file does not fit its size, as that
    of a file that was fetched in part; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise InvalidFileError(file, None, UNREADABLE) from error


@contextmanager
def whole_weights(target: Path, *, remedy: str) -> Iterator[Path]:
    """Give a new folder to fill with weights, as ``whole_folder`` does.

    Raise ``InvalidRequestError``, which ends with ``remedy``, if it cannot be written.
    """
    from safetensors import SafetensorError

    try:
        with whole_folder(target) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequestError(
            Phrase(
                "cannot write {target}: {reason}. {remedy}",
                target=target,
                reason=reason,
                remedy=remedy,
            )
        ) from error


def has_weights(folder: Path) -> bool:
    """Return whether a checkpoint has all of its weights."""
    try:
        return bool(weight_files(folder))
    except InvalidFileError:
        return False


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has a configuration, and all of its weights in safetensors."""
    try:
        return (folder / "config.json").is_file() and bool(safetensors_files(folder))
    except InvalidFileError:
        return False


def shard_names(number: int) -> list[str]:
    """Return the names of so many files of weights.

    >>> shard_names(1), shard_names(2)[1]
    (['model.safetensors'], 'model-00002-of-00002.safetensors')
    """
    if number == 1:
        return [SINGLE]
    return [f"model-{shard:05d}-of-{number:05d}.safetensors" for shard in range(1, number + 1)]


def write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    """Write the index that names the file of every tensor; a single file needs none."""
    if len(set(weight_map.values())) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(weight_map)}
        write_json(_index(folder, SINGLE), index)
