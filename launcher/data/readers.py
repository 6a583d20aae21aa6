"""Files as streams of records with their places; no file is held in memory whole."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from launcher.data.json_array import elements
from launcher.data.sources import DataFile
from planner.base.errors import InvalidFileError
from planner.base.phrases import Joined, Phrase

ROWS_AT_ONCE = 1000
LONGEST_CELL = 2**31 - 1
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a record: a line of a text file, or a row of a table, from 1."""

    name: str
    number: int
    unit: str = "line"

    def error(self, reason: str) -> InvalidFileError:
        if self.unit == "line":
            return InvalidFileError(Path(self.name), self.number, reason)
        return InvalidFileError(
            Path(self.name), None, Joined(": ", [f"{self.unit} {self.number}", reason])
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One record as its file has it."""

    place: Place
    content: object
    problem: str | None = None
    """Reason why there is no content."""
    num_bytes: int = 0
    """Bytes of the file that it takes, as far as that is known."""


def read_records(file: DataFile) -> Iterator[Record]:
    """Yield every record of a file, in order.

    Raises InvalidFileError if the file cannot be read at all.
    """
    try:
        yield from READERS.get(file.path.suffix, _json_lines)(file)
    except UnicodeDecodeError as error:
        raise InvalidFileError(Path(file.name), None, Phrase("is not UTF-8 text")) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidFileError(
            Path(file.name), None, Phrase("cannot be read ({reason})", reason=reason)
        ) from error


def _json_lines(file: DataFile) -> Iterator[Record]:
    """Yield the value of each line that is not blank. Only a line feed ends a line."""
    with file.path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_line(Place(file.name, number), line)


def _json_line(place: Place, line: bytes) -> Record:
    try:
        return _checked(place, json.loads(line.decode()), len(line))
    except UnicodeDecodeError as error:
        return Record(
            place,
            None,
            Phrase("is not UTF-8 text (byte {start})", start=error.start + 1),
            len(line),
        )
    except json.JSONDecodeError as error:
        return Record(
            place,
            None,
            Phrase("is not JSON ({msg}, column {colno})", msg=error.msg, colno=error.colno),
            len(line),
        )
    except RecursionError:
        return Record(place, None, Phrase("is not JSON of a record (nested too deeply)"), len(line))
    except ValueError:
        return Record(
            place, None, Phrase("is not JSON of a record (a number is too long)"), len(line)
        )


def _checked(place: Place, content: object, num_bytes: int) -> Record:
    """Return a record of JSON, which may hold halves of characters that are not text."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        problem = Phrase(
            "holds half of a character (\\u{code:04x}), which is not text", code=ord(half)
        )
        return Record(place, None, problem, num_bytes)
    return Record(place, content, num_bytes=num_bytes)


def _json(file: DataFile) -> Iterator[Record]:
    """Yield the records of an array or an object; or JSON Lines, since many are named so."""
    if _holds_lines(file.path):
        yield from _json_lines(file)
        return
    with file.path.open(encoding="utf-8-sig") as text:
        for line, content, num_bytes in elements(text, Path(file.name)):
            yield _checked(Place(file.name, line), content, num_bytes)


def _holds_lines(path: Path) -> bool:
    """Return whether the first line is an object and more lines follow it."""
    with path.open("rb") as lines:
        said = (line.removeprefix(b"\xef\xbb\xbf") for line in lines)
        first, second = islice(chain(filter(bytes.strip, said), (b"", b"")), 2)
    if not first.lstrip().startswith(b"{") or not second:
        return False
    try:
        json.loads(first.decode())
    except (ValueError, RecursionError):
        return second.lstrip().startswith(b"{")
    return True


def _csv(file: DataFile) -> Iterator[Record]:
    """Yield the rows under the first one, which names the fields."""
    csv.field_size_limit(LONGEST_CELL)
    with file.path.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True, delimiter=_delimiter(text))
        header = _header(rows, file)
        while True:
            begins = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise InvalidFileError(
                    Path(file.name), begins, Phrase("is not CSV ({error})", error=error)
                ) from error
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield _csv_row(Place(file.name, begins), header, row)


def _delimiter(text: TextIO) -> str:
    """Return what separates the names in the first line; spreadsheets write semicolons, too.

    A first line like ``sep=;`` says so, and is passed over.
    """
    begins, first = text.tell(), text.readline()
    directive = first.strip()
    if len(directive) == len("sep=;") and directive.startswith("sep="):
        return directive[-1]
    text.seek(begins)
    outside = re.sub(r'"[^"]*"', "", first)
    return max(DELIMITERS, key=outside.count)


def _header(rows: Any, file: DataFile) -> list[str]:
    """Return the names of the columns; spreadsheets leave those of empty columns blank."""
    try:
        header = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise InvalidFileError(
            Path(file.name), 1, Phrase("is not CSV ({error})", error=error)
        ) from error
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise InvalidFileError(
            Path(file.name), 1, Phrase("column {name!r} is there twice", name=twice[0])
        )
    return header


def _csv_row(place: Place, header: list[str], row: list[str]) -> Record:
    size = sum(map(len, row)) + len(row)
    if len(row) != len(header):
        problem = Phrase(
            "the row has {number} {number[field|fields]} and the header {expected}",
            number=len(row),
            expected=len(header),
        )
        return Record(place, None, problem, size)
    cells = list(zip(header, row, strict=True))
    unnamed = [cell for name, cell in cells if not name and cell.strip()]
    if unnamed:
        return Record(
            place,
            None,
            Phrase("{unnamed!r} is in a column without a name", unnamed=unnamed[0][:40]),
            size,
        )
    return Record(place, {name: cell for name, cell in cells if name}, num_bytes=size)


def _parquet(file: DataFile) -> Iterator[Record]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file.path) as table:
            batches = table.iter_batches(batch_size=ROWS_AT_ONCE)
            yield from _rows(batches, file.name, _size_of_row(file.path, table.metadata.num_rows))
    except (ArrowException, OSError) as error:
        raise _unreadable(file, "Parquet", error) from error


def _arrow(file: DataFile) -> Iterator[Record]:
    from datasets import Dataset
    from pyarrow import ArrowException

    try:
        table = Dataset.from_file(str(file.path))
        batches = table.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
        yield from _rows(batches, file.name, _size_of_row(file.path, len(table)))
    except (ArrowException, OSError) as error:
        raise _unreadable(file, Phrase("an Arrow stream"), error) from error


def _unreadable(file: DataFile, kind: str, error: Exception) -> InvalidFileError:
    reason = " ".join(str(error).split())
    return InvalidFileError(
        Path(file.name), None, Phrase("is not {kind} ({reason})", kind=kind, reason=reason)
    )


def _rows(batches: Any, name: str, num_bytes: int) -> Iterator[Record]:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # damaged offsets would be followed out of the file
        for content in batch.to_pylist():
            number += 1
            fields = {field: _without_nulls(value) for field, value in content.items()}
            yield Record(Place(name, number, "row"), fields, num_bytes=num_bytes)


def _without_nulls(value: Any) -> Any:
    """Return a value without the fields that only other rows have: a table gives them null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _size_of_row(path: Path, num_rows: int) -> int:
    return path.stat().st_size // max(1, num_rows)


READERS: Mapping[str, Callable[[DataFile], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
