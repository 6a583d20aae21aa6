"""A folder that appears whole or not at all: filled beside its place, then given its name."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder for the block to fill, in place of what an attempt that was killed has left.

    It is removed where the block does not come to its end. One process at a time makes it:
    see ``one_maker``.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tuneplan"


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder: a size alone does not say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def one_maker(entry: Path) -> Iterator[None]:
    """Waits for who makes it now, if anybody does: look for it again inside.

    The lock lies beside the entry and goes with the process that holds it.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    with (entry.parent / f".{entry.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
