"""A JSON array read element by element, however long it is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from planner.base.errors import InvalidFileError

CHUNK = 2**20
LONGEST_ELEMENT = 2**26
"""Characters; beyond them a missing bracket is likelier than such a record."""

_SPACE = re.compile(r"\s*")

Element = tuple[int, object, int]
"""The line that it starts on, its value, its length in characters."""


class _Window:
    """The part of a text that is in memory, where we are in it, and the lines before that."""

    def __init__(self, text: TextIO, path: Path) -> None:
        self._text = text
        self._path = path
        self._lines = 0
        self._decoder = json.JSONDecoder()
        self._buffer = ""
        self._at = 0

    def skip_space(self) -> str:
        """The next character that is not space, left where it is; nothing at the end."""
        while True:
            behind = _SPACE.match(self._buffer, self._at)
            assert behind is not None
            self._advance(behind.end())
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self) -> None:
        self._advance(self._at + 1)

    def value(self) -> Element:
        """The value that begins here; more is read for as long as it may be incomplete."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._at < LONGEST_ELEMENT and self._more():
                    continue
                ahead = self._buffer.count("\n", self._at, error.pos)
                raise self.error(f"is not JSON ({error.msg})", ahead) from error
            line, length = self._lines + 1, end - self._at
            self._advance(end)
            return line, value, length

    def error(self, reason: str, lines_ahead: int = 0) -> InvalidFileError:
        return InvalidFileError(self._path, self._lines + lines_ahead + 1, reason)

    def _more(self) -> bool:
        """Twice as much as is left, so that a long element is not begun again too often."""
        left = self._buffer[self._at :]
        chunk = self._text.read(max(CHUNK, len(left)))
        self._buffer, self._at = left + chunk, 0
        return bool(chunk)

    def _advance(self, end: int) -> None:
        self._lines += self._buffer.count("\n", self._at, end)
        self._at = end


def elements(text: TextIO, path: Path) -> Iterator[Element]:
    window = _Window(text, path)
    if window.skip_space() != "[":
        raise window.error("a JSON array of records is expected, as in [{...}, {...}]")
    window.take()
    if window.skip_space() == "]":
        return
    while True:
        yield window.value()
        match window.skip_space():
            case ",":
                window.take()
                window.skip_space()
            case "]":
                return
            case _:
                raise window.error("is not JSON (expecting ',' or ']')")
