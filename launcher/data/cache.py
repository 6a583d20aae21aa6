"""Tokenized data sets kept by the content of all that made them, so that none is made twice.

An entry is a folder with its tables and ``summary.json``, which holds their digests. It is made
beside its place and renamed, so a launch that was killed leaves no entry; one that was damaged
since is recognised by its digests and made again. Keys hold the versions of what tokenizes and
the digest of this package's source, so that no table of an older way to read data is used again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launcher.storage.digest import file_digest
from launcher.storage.whole_folders import one_maker, whole_folder
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.user_folders import cache_directory

SUMMARY = "summary.json"
KEY_LENGTH = 32


MAKERS = ("jinja2", "tokenizers", "transformers", "trl")
"""Packages whose versions decide what becomes of the same data."""


def content_key(content: Mapping[str, Any]) -> str:
    """Return a key that is the same for the same content made by the same code."""
    text = json.dumps({**content, "made by": made_by()}, sort_keys=True)
    return hashlib.blake2b(text.encode()).hexdigest()[:KEY_LENGTH]


@cache
def made_by() -> Mapping[str, str]:
    """Return the versions of the packages that tokenize, and the digest of this one's source."""
    return {"source": source_digest(), **{name: version(name) for name in MAKERS}}


def source_digest() -> str:
    digest = hashlib.blake2b()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:KEY_LENGTH]


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept data set."""

    folder: Path
    summary: Mapping[str, Any]


def data_cache(kind: str) -> Path:
    return cache_directory() / kind


def whole_entry(folder: Path) -> Entry | None:
    """Return the entry in a folder if it is whole; nothing is written, so it may be read-only."""
    if not folder.is_dir() or torn(folder) is not None:
        return None
    return Entry(folder, _read(folder)["summary"])


def found_entry(folder: Path, say: Callable[[str], None]) -> Entry | None:
    """Return the entry in a folder if it is whole; remove one that is damaged."""
    if not folder.is_dir():
        return None
    wrong = torn(folder)
    if wrong is None:
        return Entry(folder, _read(folder)["summary"])
    say(
        Phrase(
            "the kept data set {folder} is torn ({wrong}); it is made again",
            folder=folder,
            wrong=wrong,
        )
    )
    shutil.rmtree(folder)
    return None


def torn(folder: Path) -> str | None:
    """Return what is wrong with an entry, or None."""
    try:
        tables = _read(folder)["tables"]
    except (OSError, ValueError, KeyError):
        return Phrase("{summary} cannot be read", summary=SUMMARY)
    for name, digest in tables.items():
        if not (folder / name).is_file():
            return Phrase("{name} is missing", name=name)
        if file_digest(folder / name) != digest:
            return Phrase("{name} has changed", name=name)
    return None


@contextmanager
def kept_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of ``one_maker``, or raise InvalidRequestError if nothing can be kept there."""
    with ExitStack() as stack:
        try:
            stack.enter_context(one_maker(folder))
        except OSError as error:
            raise _cannot_keep(folder, error) from error
        yield


def make_entry(folder: Path, fill: Callable[[Path], Mapping[str, Any]]) -> Entry:
    """Keep the tables that ``fill`` writes into a folder, with the summary that it returns."""
    try:
        with whole_folder(folder) as partial:
            summary = fill(partial)
            _finish(partial, summary)
    except OSError as error:
        raise _cannot_keep(folder, error) from error
    return Entry(folder, summary)


def _cannot_keep(folder: Path, error: OSError) -> InvalidRequestError:
    reason = error.strerror or str(error)
    return InvalidRequestError(
        Phrase(
            "cannot keep the tokenized data in {parent}: {reason}. Make room, or name "
            "another place with XDG_CACHE_HOME.",
            parent=folder.parent,
            reason=reason,
        )
    )


def _finish(partial: Path, summary: Mapping[str, Any]) -> None:
    tables = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
    content = json.dumps({"tables": tables, "summary": summary}, indent=2)
    with (partial / SUMMARY).open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return content
