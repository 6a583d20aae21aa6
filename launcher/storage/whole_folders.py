"""Folders that appear whole or not at all: filled beside their place, then given their name."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.base.output_file import flush, unguessable
from planner.base.phrases import Phrase
from planner.base.units import format_gib

SPARE_BYTES = 64 * 2**20
"""Bytes for a tokenizer and other small files."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a new folder to fill, which gets the name ``target`` when the block has ended.

    By then its files have reached the disk. If the block raises, the folder is removed; what a
    process that was killed has left is removed by the next call for the same target. Raise
    ``OSError`` if ``target`` is not free by then.
    """
    _remove_abandoned(target)
    with _new_folder(target) as partial:
        try:
            yield partial
            flush_all(partial)
            partial.rename(target)
            flush(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``, with a lock that says it is in use."""
    made = target.with_name(f".{target.name}.{unguessable()}.new")
    made.mkdir(parents=True)
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(OSError):  # a file system without locks: what is abandoned there stays
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield made.rename(made.with_suffix(".partial"))
    finally:
        os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    for partial in target.parent.glob(f".{escape(target.name)}.*.partial"):
        with suppress(OSError):  # it is in use, or not ours
            descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial)
            finally:
                os.close(descriptor)


def flush_all(folder: Path) -> None:
    """Wait until every file in a folder, and every name in it, has reached the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def require_room(target: Path, needed_bytes: int) -> None:
    """Raise ``InvalidRequestError`` if the disk has no room for a converted model beside what is
    there."""
    free, needed = shutil.disk_usage(target.parent).free, needed_bytes + SPARE_BYTES
    if free < needed:
        raise InvalidRequestError(
            Phrase(
                "{parent} has {gib} GiB of free disk and the converted model needs {needed} "
                "GiB. Make room there.",
                parent=target.parent,
                gib=format_gib(free),
                needed=format_gib(needed),
            )
        )


@contextmanager
def one_maker(entry: Path) -> Iterator[None]:
    """Wait for the process that makes ``entry``, if there is one: look for it again inside.

    The lock is a file beside the entry, and is released with the process that holds it.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    with (entry.parent / f".{entry.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
