"""A folder that appears whole or not at all: filled beside its place, then given its name."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(
    target: Path, *, found_whole: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """A folder for the block to fill, which is removed where the block does not come to its end.

    Where other processes may be making the same, each fills one of its own, and
    ``found_whole`` says whether what another has put in place meanwhile will do.
    """
    partial = _begun(target) if found_whole is None else _begun_apart(target)
    try:
        yield partial
        _publish(partial, target, found_whole)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _begun(target: Path) -> Path:
    """In place of what an attempt that was killed has left."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _begun_apart(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))


def _publish(partial: Path, target: Path, found_whole: Callable[[Path], bool] | None) -> None:
    try:
        partial.rename(target)
    except OSError:
        if found_whole is None or not found_whole(target):
            raise
