"""A JSON array read element by element, however long it is, on its own or in an object."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

CHUNK = 2**20
LONGEST_ELEMENT = 2**26
"""Characters of one element; beyond them a missing bracket is likelier than such a record."""

_SPACE = re.compile(r"\s*")

Element = tuple[int, object, int]
"""Line that an element starts on, its value, its length in characters."""

RECORDS = frozenset(
    ("data", "train", "records", "rows", "examples", "samples", "instances", "items", "dataset")
)
"""Keys under which a JSON object may hold its array of records, beside metadata."""


class _Window:
    """The part of a text that is in memory, the place in it, and the lines before that."""

    def __init__(self, text: TextIO, path: Path) -> None:
        self._text = text
        self._path = path
        self._lines = 0
        self._decoder = json.JSONDecoder()
        self._buffer = ""
        self._at = 0

    def skip_space(self) -> str:
        """Return the next character that is not space, left where it is; none at the end."""
        while True:
            behind = _SPACE.match(self._buffer, self._at)
            assert behind is not None
            self._advance(behind.end())
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    @property
    def line(self) -> int:
        return self._lines + 1

    def take(self) -> None:
        self._advance(self._at + 1)

    def value(self) -> Element:
        """Return the value that begins here; more is read for as long as it may be incomplete."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except RecursionError as error:
                raise self.error(Phrase("is not JSON of a record (nested too deeply)")) from error
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._at < LONGEST_ELEMENT and self._more():
                    continue
                ahead = self._buffer.count("\n", self._at, error.pos)
                raise self.error(Phrase("is not JSON ({msg})", msg=error.msg), ahead) from error
            except ValueError as error:
                reason = Phrase("is not JSON of a record (a number is too long)")
                raise self.error(reason) from error
            line, length = self._lines + 1, end - self._at
            self._advance(end)
            return line, value, length

    def error(self, reason: str, lines_ahead: int = 0) -> InvalidFileError:
        return InvalidFileError(self._path, self._lines + lines_ahead + 1, reason)

    def _more(self) -> bool:
        """Read twice as much as is left, so that a long element is not begun again too often."""
        left = self._buffer[self._at :]
        chunk = self._text.read(max(CHUNK, len(left)))
        self._buffer, self._at = left + chunk, 0
        return bool(chunk)

    def _advance(self, end: int) -> None:
        self._lines += self._buffer.count("\n", self._at, end)
        self._at = end


def elements(text: TextIO, path: Path) -> Iterator[Element]:
    """Yield the records of an array, of an object that holds one, or an object as the only one."""
    window = _Window(text, path)
    match window.skip_space():
        case "[":
            yield from _array(window)
        case "{":
            yield from _object(window)
        case _:
            raise window.error(
                Phrase(
                    "a JSON array of records is expected, as in {example}", example="[{...}, {...}]"
                )
            )
    if window.skip_space():
        raise window.error(Phrase("is not JSON (text follows its end)"))


def _array(window: _Window) -> Iterator[Element]:
    window.take()
    if window.skip_space() == "]":
        window.take()
        return
    while True:
        yield window.value()
        match window.skip_space():
            case ",":
                window.take()
                window.skip_space()
            case "]":
                window.take()
                return
            case _:
                raise window.error(Phrase("is not JSON (expecting {signs})", signs="',' or ']'"))


def _object(window: _Window) -> Iterator[Element]:
    """Yield the records of the array in an object, or the object itself if it holds none."""
    members, size, holders = dict[str, object](), 0, list[str]()
    window.take()
    line = window.line
    while window.skip_space() != "}":
        _, name, _ = window.value()
        if window.skip_space() != ":" or not isinstance(name, str):
            raise window.error(Phrase("is not JSON (expecting a name and ':')"))
        window.take()
        if window.skip_space() == "[" and name in RECORDS:
            holders.append(name)
            if len(holders) > 1:
                raise window.error(
                    Phrase(
                        "{holders} both hold records: put each in a file of its own",
                        holders=" and ".join(holders),
                    )
                )
            yield from _array(window)
        else:
            _, members[name], length = window.value()
            size += length
        if window.skip_space() == ",":
            window.take()
        elif window.skip_space() != "}":
            raise window.error(Phrase("is not JSON (expecting {signs})", signs="',' or '}'"))
    window.take()
    if not holders:
        yield line, members, size
