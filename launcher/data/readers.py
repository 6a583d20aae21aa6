"""Files as streams of records, each with its place; a file is never held in memory whole."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.data.json_array import elements
from launcher.data.sources import DataFile
from planner.base.errors import InvalidFileError

ROWS_AT_ONCE = 1000
LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is: a line of a text file, or a row of a table, from 1."""

    name: str
    number: int
    unit: str = "line"

    def error(self, reason: str) -> InvalidFileError:
        if self.unit == "line":
            return InvalidFileError(Path(self.name), self.number, reason)
        return InvalidFileError(Path(self.name), None, f"{self.unit} {self.number}: {reason}")


@dataclass(frozen=True, slots=True)
class Record:
    place: Place
    content: object
    problem: str | None = None
    """Why there is no content."""
    num_bytes: int = 0
    """Of the file that it takes, as far as that is known."""


def read_records(file: DataFile) -> Iterator[Record]:
    """Every record of a file, in order. A file that cannot be read at all is an error."""
    try:
        yield from READERS.get(file.path.suffix, _json_lines)(file)
    except UnicodeDecodeError as error:
        raise InvalidFileError(Path(file.name), None, "is not UTF-8 text") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidFileError(Path(file.name), None, f"cannot be read ({reason})") from error


def _json_lines(file: DataFile) -> Iterator[Record]:
    """A value on each line that is not blank. Lines end in a line feed and nothing else."""
    with file.path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_line(Place(file.name, number), line)


def _json_line(place: Place, line: bytes) -> Record:
    try:
        return Record(place, json.loads(line.decode()), num_bytes=len(line))
    except UnicodeDecodeError as error:
        return Record(place, None, f"is not UTF-8 text (byte {error.start + 1})", len(line))
    except json.JSONDecodeError as error:
        return Record(place, None, f"is not JSON ({error.msg}, column {error.colno})", len(line))
    except RecursionError:
        return Record(place, None, "is not JSON of a record (nested too deeply)", len(line))


def _json(file: DataFile) -> Iterator[Record]:
    """An array of records; or JSON Lines, since many such files are named so."""
    if _first_character(file.path) == "{":
        yield from _json_lines(file)
        return
    with file.path.open(encoding="utf-8-sig") as text:
        for line, content, num_bytes in elements(text, Path(file.name)):
            yield Record(Place(file.name, line), content, num_bytes=num_bytes)


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as text:
        while character := text.read(1):
            if not character.isspace():
                return character
    return ""


def _csv(file: DataFile) -> Iterator[Record]:
    """The first row names the fields."""
    csv.field_size_limit(LONGEST_CELL)
    with file.path.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        header = _header(rows, file)
        while True:
            begins = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise InvalidFileError(Path(file.name), begins, f"is not CSV ({error})") from error
            if row is None:
                return
            if row:
                yield _csv_row(Place(file.name, begins), header, row)


def _header(rows: Any, file: DataFile) -> list[str]:
    try:
        header: list[str] = next(rows, [])
    except csv.Error as error:
        raise InvalidFileError(Path(file.name), 1, f"is not CSV ({error})") from error
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InvalidFileError(Path(file.name), 1, f"column {twice[0]!r} is there twice")
    return header


def _csv_row(place: Place, header: list[str], row: list[str]) -> Record:
    size = sum(map(len, row)) + len(row)
    if len(row) != len(header):
        problem = f"the row has {len(row)} fields and the header {len(header)}"
        return Record(place, None, problem, size)
    return Record(place, dict(zip(header, row, strict=True)), num_bytes=size)


def _parquet(file: DataFile) -> Iterator[Record]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file.path) as table:
            batches = table.iter_batches(batch_size=ROWS_AT_ONCE)
            yield from _rows(batches, file.name, _size_of_row(file.path, table.metadata.num_rows))
    except ArrowInvalid as error:
        reason = " ".join(str(error).split())
        raise InvalidFileError(Path(file.name), None, f"is not Parquet ({reason})") from error


def _arrow(file: DataFile) -> Iterator[Record]:
    from datasets import Dataset

    table = Dataset.from_file(str(file.path))
    batches = table.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    yield from _rows(batches, file.name, _size_of_row(file.path, len(table)))


def _rows(batches: Any, name: str, num_bytes: int) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for content in batch.to_pylist():
            number += 1
            yield Record(Place(name, number, "row"), content, num_bytes=num_bytes)


def _size_of_row(path: Path, num_rows: int) -> int:
    return path.stat().st_size // max(1, num_rows)


READERS: Mapping[str, Callable[[DataFile], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
