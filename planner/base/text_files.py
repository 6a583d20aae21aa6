"""Files that people write by hand: read whole, and how deep they may nest."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

MOST_BYTES = 2**24
"""Bytes of the largest file that is read: 16 MiB, far more than anybody writes by hand."""
DEEPEST = 100
"""Levels of nesting in the deepest text that is parsed."""


def read_text(path: Path) -> str:
    """Return a file's text.

    Raise InvalidFileError where the path does not name a regular file (a pipe would be waited
    for, a device never ends), where it is too large, unreadable, or not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidFileError(path, None, Phrase("is not a regular file"))
        if status.st_size > MOST_BYTES:
            raise InvalidFileError(
                path,
                None,
                Phrase(
                    "has {number:,} bytes, and at most {most:,} are read",
                    number=status.st_size,
                    most=MOST_BYTES,
                ),
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(path, None, Phrase("is not UTF-8 text")) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidFileError(
            path, None, Phrase("cannot be read ({reason})", reason=reason)
        ) from error
    except ValueError as error:  # a null byte in the path
        raise InvalidFileError(
            path, None, Phrase("cannot be read ({reason})", reason=error)
        ) from error


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of any size, with a mark for each byte that is not UTF-8.

    Raise InvalidFileError where the path does not name a regular file that can be read.
    """
    if not path.is_file():
        raise InvalidFileError(path, None, Phrase("is not a regular file"))
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from file
    except OSError as error:
        raise InvalidFileError(
            path, None, Phrase("cannot be read ({strerror})", strerror=error.strerror)
        ) from error


def bracket_depth(tokens: Iterable[str]) -> int:
    """Return the deepest nesting of brackets and braces; tokens of any other kind do not count.

    >>> bracket_depth("[{}]{[")
    2
    """
    depth = deepest = 0
    for token in tokens:
        if token in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token in ("]", "}"):
            depth -= 1
    return deepest
