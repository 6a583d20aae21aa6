"""A plan's sources as files on this machine, in a fixed order."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from launcher.storage.digest import file_digest
from launcher.storage.hub_names import names_a_folder
from launcher.storage.regular_files import require_regular
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.text_files import read_text
from planner.base.user_folders import expanded
from planner.plan.data_section import DataFormat, DataSection, DataSource, FieldName

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
DATASETS_SUFFIX = ".arrow"
"""Suffix of the files in which ``datasets`` keeps tables."""
STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files of ``Dataset.save_to_disk`` and ``DatasetDict.save_to_disk``."""
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the names of files and folders that say what split they hold.

read: datasets 5.0 data_files.py, ``SPLIT_KEYWORDS``
"""


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file with records."""

    path: Path
    name: str
    """Name for messages: as the user wrote it, or that of the data set on the hub."""


@dataclass(frozen=True, kw_only=True)
class FoundSource:
    """One source with the files that hold its records."""

    name: str
    files: tuple[DataFile, ...]
    weight: float
    format: DataFormat | None
    fields: Mapping[FieldName, str]
    system: str | None = None
    num_left_out: int = 0
    """Files of a folder that hold other splits."""

    @cached_property
    def digests(self) -> list[str]:
        """Digests of the files, which say whether two sources hold the same."""
        return [file_digest(file.path) for file in self.files]


def check_named(data: DataSection, *, elsewhere: bool = False) -> None:
    """Raise InvalidRequestError if files that a plan names are not here; the hub is not asked.

    ``elsewhere`` says that the run is on machines with other disks, to which an absolute path may
    belong.
    """
    if not data.every_source:
        raise InvalidRequestError(
            Phrase("the plan names no data. Say which with --data FILE, or fill in data.source.")
        )
    for source in data.every_source:
        _check_split(source)
        path = expanded(source.source)
        if path.exists() or not (is_hub_name(source.source) or (elsewhere and path.is_absolute())):
            data_files(source)


def _check_split(source: DataSource) -> None:
    """Refuse a slice of a split: files are read whole, which is more than was asked for."""
    name, bracket, _ = source.split.partition("[")
    if bracket:
        raise InvalidRequestError(
            Phrase(
                "data.split {split}: a part of a split is not read. Name the whole split "
                "({name}), with sources.weight below 1 for a share of it, or "
                "training.max_steps for a short run.",
                split=source.split,
                name=name,
            )
        )


def find_sources(data: DataSection) -> tuple[FoundSource, ...]:
    """Return every source of a plan, or raise InvalidRequestError with what to do."""
    check_named(data)
    return tuple(_found(source, data_files(source)) for source in data.every_source)


def _found(source: DataSource, files: tuple[DataFile, ...]) -> FoundSource:
    return FoundSource(
        name=source.source,
        files=files,
        weight=source.weight,
        format=source.format,
        fields=source.fields.given,
        system=source.system,
        num_left_out=_num_left_out(expanded(source.source), len(files)),
    )


def _num_left_out(folder: Path, num_files: int) -> int:
    """Return how many data files of a folder are not of the split that is read."""
    if not folder.is_dir() or (folder / STATE).is_file() or (folder / SPLITS).is_file():
        return 0
    return len(_every_file(folder)) - num_files


def data_files(source: DataSource) -> tuple[DataFile, ...]:
    """Return a file, the data files of a folder by name, or what the hub has."""
    if source.source == "demo":
        path = Path(str(files("presets"))) / "data" / "demo.jsonl"
        return (DataFile(path, path.name),)
    path = expanded(source.source)
    if path.is_dir():
        return tuple(DataFile(file, str(file)) for file in _in_folder(path, source.split))
    if path.is_file():
        if path.suffix not in (*SUFFIXES, DATASETS_SUFFIX):
            raise InvalidRequestError(
                Phrase(
                    "data file {path}: {suffixes} is expected.",
                    path=path,
                    suffixes=" or ".join(SUFFIXES),
                )
            )
        return (DataFile(path, str(path)),)
    require_regular(path)
    if is_hub_name(source.source):
        return tuple(DataFile(file, source.source) for file in fetched(source))
    raise InvalidRequestError(
        Phrase("data file {path} does not exist. Name one with --data FILE.", path=path)
    )


def is_hub_name(source: str) -> bool:
    """Return whether a source is ``owner/name`` that could not be meant as a file.

    >>> [is_hub_name(name) for name in ("tatsu-lab/alpaca", "data/my.jsonl", "./a/b", "a.csv")]
    [True, False, False, False]
    """
    if names_a_folder(source) or source.endswith(SUFFIXES):
        return False
    return source.count("/") == 1 and all(source.split("/"))


def _in_folder(folder: Path, split: str) -> list[Path]:
    """Return the files of one split of a folder, in the order of their names."""
    if (folder / SPLITS).is_file():
        return _saved(_split_folder(folder, split))
    if (folder / STATE).is_file():
        return _saved(folder)
    files = _every_file(folder)
    if not files:
        raise InvalidRequestError(
            Phrase(
                "data folder {folder} holds no file that ends in {suffixes}.",
                folder=folder,
                suffixes=" or ".join(SUFFIXES),
            )
        )
    split = next((name for name, words in SPLIT_WORDS.items() if split in words), split)
    splits = {path: split_of(path.relative_to(folder)) for path in files}
    chosen = [path for path in files if splits[path] == split]
    if not chosen:
        raise _no_split(folder, split, sorted(set(splits.values())))
    return chosen


def _every_file(folder: Path) -> list[Path]:
    """Return the data files; raise ``InvalidFileError`` if one cannot be read as a file."""
    named = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and not path.is_dir() and not path.name.startswith(".")
    )
    for path in named:
        require_regular(path)
        if not path.exists():
            raise InvalidFileError(path, None, Phrase("is a link to a file that does not exist"))
    return named


def split_of(path: Path) -> str:
    """Return the split that the words in a path name; without any it is for training.

    >>> [split_of(Path(name)) for name in ("data/test-00000-of-00001.parquet", "latest/a.json")]
    ['test', 'train']
    """
    words = re.split(r"[^a-z]+", str(path.with_suffix("")).lower())
    named = [split for split, known in SPLIT_WORDS.items() for word in words if word in known]
    return named[-1] if named else "train"


def _split_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split that ``DatasetDict.save_to_disk`` made."""
    splits = _member(folder / SPLITS, "splits")
    if split not in splits:
        raise _no_split(folder, split, [str(name) for name in splits])
    return folder / split


def _saved(folder: Path) -> list[Path]:
    """Return the files of a folder that ``Dataset.save_to_disk`` made.

    Raise ``InvalidFileError`` if it names one that is not a file in it.
    """
    listed = [
        str(item.get("filename") if isinstance(item, dict) else item)
        for item in _member(folder / STATE, "_data_files")
    ]
    for name in listed:
        if Path(name).name != name:
            raise InvalidFileError(
                folder / STATE, None, Phrase("names {name!r}, outside its folder", name=name)
            )
        if not (folder / name).is_file():
            raise InvalidFileError(
                folder / STATE, None, Phrase("names {name!r}, which is not a file", name=name)
            )
    return [folder / name for name in listed]


def _member(path: Path, name: str) -> list[Any]:
    try:
        content = json.loads(read_text(path))[name]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidFileError(
            path, None, Phrase("has no {name} ({error})", name=name, error=error)
        ) from error
    if not isinstance(content, list):
        raise InvalidFileError(path, None, Phrase("{name} is not a list", name=name))
    return content


def _no_split(folder: Path, split: str, splits: list[str]) -> InvalidRequestError:
    return InvalidRequestError(
        Phrase(
            "data folder {folder} has no split {split!r}; it has {splits}. Name one in "
            "data.split, or a file of it.",
            folder=folder,
            split=split,
            splits=", ".join(splits),
        )
    )


def fetched(source: DataSource) -> tuple[Path, ...]:
    """Return the Arrow files of one split, in order; fetched at the first call, kept later."""
    from datasets import Dataset, load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = load_dataset(source.source, source.subset, split=source.split)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InvalidRequestError(
            Phrase(
                "data set {source}: it is not a file here, and loading it from the hub "
                "failed ({name}: {reason}). Name a local file with --data FILE.",
                source=source.source,
                name=type(error).__name__,
                reason=reason,
            )
        ) from error
    assert isinstance(loaded, Dataset)
    return tuple(Path(file["filename"]) for file in loaded.cache_files)
