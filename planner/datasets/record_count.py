"""The number of records in data files, counted without tokenizer and training stack."""

import csv
import json
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT
from planner.base.text_files import read_lines, read_text
from planner.base.user_folders import expanded
from planner.plan.data_section import DataSection

DEMO = ROOT / "data" / "demo.jsonl"


def num_records(section: DataSection) -> int | None:
    """Return the records that an epoch sees, with the sources' weights; None if a source is not a
    JSON, JSON Lines or CSV file here.

    Raise ``InvalidFileError`` for a file without records, or whose first one is not JSON.
    """
    total = 0.0
    for source in section.every_source:
        path = DEMO if source.source == "demo" else expanded(source.source)
        count = _in_file(path, skips=section.errors == "skip") if path.is_file() else None
        if count is None:
            return None
        if count == 0:
            raise InvalidFileError(path, None, Phrase("holds no records"))
        total += count * source.weight
    return round(total)


def _in_file(path: Path, *, skips: bool) -> int | None:
    """Return the records of a file; ``skips`` says that bad ones are left out."""
    match path.suffix:
        case ".jsonl":
            lines = (line for line in read_lines(path) if line.strip())
            first = next(lines, None)
            if first is not None and not skips:
                _parsed(path, first)
            return (first is not None) + sum(1 for _ in lines)
        case ".csv":
            return max(0, sum(1 for row in csv.reader(read_lines(path)) if row) - 1)
        case ".json":
            content = _parsed(path, read_text(path))
            return len(content) if isinstance(content, list) else None
        case _:
            return None


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidFileError(path, None, Phrase("is not JSON: {error}", error=error)) from error
