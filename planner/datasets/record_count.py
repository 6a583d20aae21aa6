"""The number of records in data files, counted without tokenizer and training stack."""

import csv
import json
from pathlib import Path

from planner.base.errors import InvalidFileError
from planner.base.home_folder import expanded
from planner.base.preset_files import ROOT
from planner.base.text_files import read_lines, read_text
from planner.plan.data_section import DataSection

DEMO = ROOT / "data" / "demo.jsonl"


def num_records(section: DataSection) -> int | None:
    """Return the records that an epoch sees, with the sources' weights; None if a source is not a
    JSON, JSON Lines or CSV file here, or cannot be read."""
    total = 0.0
    for source in section.every_source:
        path = DEMO if source.source == "demo" else expanded(source.source)
        try:
            count = _in_file(path)
        except (InvalidFileError, ValueError):
            return None
        if count is None:
            return None
        total += count * source.weight
    return round(total)


def _in_file(path: Path) -> int | None:
    match path.suffix:
        case ".jsonl":
            return sum(1 for line in read_lines(path) if line.strip())
        case ".csv":
            return max(0, sum(1 for row in csv.reader(read_lines(path)) if row) - 1)
        case ".json":
            content = json.loads(read_text(path))
            return len(content) if isinstance(content, list) else None
        case _:
            return None
