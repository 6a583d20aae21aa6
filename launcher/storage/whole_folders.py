"""A folder that appears whole or not at all: filled beside its place, then given its name."""

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
