"""One process at a time makes an entry of a cache, also of one that several nodes share."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_maker(entry: Path) -> Iterator[None]:
    """Waits for who makes it now, if anybody does: look for it again inside.

    The lock lies beside the entry and goes with the process that holds it.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    with (entry.parent / f".{entry.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
