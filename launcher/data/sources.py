"""What a plan's sources stand for: files on this machine, in a fixed order."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from launcher.storage.hub_names import names_a_folder
from planner.base.errors import InvalidRequestError
from planner.plan.data_section import DataFormat, DataSection, DataSource, FieldName

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HUB_SUFFIX = ".arrow"
"""Of the files in which ``datasets`` keeps what it fetched."""


@dataclass(frozen=True, slots=True)
class DataFile:
    path: Path
    name: str
    """For messages: as the user wrote it, or the data set's name on the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSource:
    """One source with the files that hold its records."""

    name: str
    files: tuple[DataFile, ...]
    weight: float
    format: DataFormat | None
    fields: Mapping[FieldName, str]
    system: str | None = None


def check_named(data: DataSection) -> None:
    """Raises where files that a plan names are not here; the hub is not asked."""
    if not data.every_source:
        raise InvalidRequestError(
            "the plan names no data. Say which with --data FILE, or fill in data.source."
        )
    for source in data.every_source:
        _check_split(source)
        if Path(source.source).expanduser().exists() or not is_hub_name(source.source):
            data_files(source)


def _check_split(source: DataSource) -> None:
    """Files are read whole: a slice of one would be more than was asked for."""
    name, bracket, _ = source.split.partition("[")
    if bracket:
        raise InvalidRequestError(
            f"data.split {source.split}: a part of a split is not read. Name the whole split "
            f"({name}), with sources.weight below 1 for a share of it, or training.max_steps "
            "for a short run."
        )


def find_sources(data: DataSection) -> tuple[FoundSource, ...]:
    """Every source of a plan, or an error that says what to do."""
    check_named(data)
    return tuple(
        FoundSource(
            name=source.source,
            files=data_files(source),
            weight=source.weight,
            format=source.format,
            fields=source.fields.given,
            system=source.system,
        )
        for source in data.every_source
    )


def data_files(source: DataSource) -> tuple[DataFile, ...]:
    """A file, every data file of a folder by name, or what the hub has."""
    if source.source == "demo":
        path = Path(str(files("presets"))) / "data" / "demo.jsonl"
        return (DataFile(path, path.name),)
    path = Path(source.source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InvalidRequestError(f"data file {path}: {' or '.join(SUFFIXES)} is expected.")
        return (DataFile(path, str(path)),)
    if is_hub_name(source.source):
        return tuple(DataFile(found, source.source) for found in fetched(source))
    raise InvalidRequestError(f"data file {path} does not exist. Name one with --data FILE.")


def is_hub_name(source: str) -> bool:
    """``owner/name`` that could not be meant as a file.

    >>> [is_hub_name(name) for name in ("tatsu-lab/alpaca", "data/my.jsonl", "./a/b", "a.csv")]
    [True, False, False, False]
    """
    if names_a_folder(source) or source.endswith(SUFFIXES):
        return False
    return source.count("/") == 1 and all(source.split("/"))


def _in_folder(folder: Path) -> tuple[DataFile, ...]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise InvalidRequestError(
            f"data folder {folder} holds no file that ends in {' or '.join(SUFFIXES)}."
        )
    return tuple(DataFile(path, str(path)) for path in found)


def fetched(source: DataSource) -> tuple[Path, ...]:
    """Arrow files of one split, in order; fetched at the first call, found later."""
    from datasets import Dataset, load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = load_dataset(source.source, source.subset, split=source.split)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InvalidRequestError(
            f"data set {source.source}: it is no file here, and the hub has not given it "
            f"({type(error).__name__}: {reason}). Name a local file with --data FILE."
        ) from error
    assert isinstance(found, Dataset)
    return tuple(Path(file["filename"]) for file in found.cache_files)
