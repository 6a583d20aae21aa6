"""A data file that is damaged anyhow gives samples, or one line that names it."""

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.data.samples import preview
from launcher.data.sources import find_sources
from planner.base.errors import UserError
from planner.plan.data_section import DataErrors, DataSection
from tests.launcher.data.reading import samples_of
from tests.launcher.launching import asked

MUTANTS = 50
WORDS = (
    *(b'"', b"{", b"[", b"}", b"]", b",", b":", b"\\", b"\n", b"\r", b"\0", b"\xff", b"null"),
    *(b"\xef\xbb\xbf", b"1e999", b"-", b"NaN", b"\\ud800", b"[" * 2000, b"9" * 5000, b"{}"),
)
"""What separates, ends or overflows something in one of the formats."""

RECORDS: dict[str, list[dict[str, Any]]] = {
    "messages": [asked(f"Who is {n}?", "Ada") for n in range(3)],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
    ],
    "alpaca": [{"instruction": "Add", "input": str(n), "output": "yes"} for n in range(3)],
    "completion": [{"prompt": f"1 + {n} =", "completion": str(n + 1)} for n in range(3)],
    "text": [{"text": f"Once there were {n}."} for n in range(3)],
}


def json_lines(records: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def json_array(records: list[dict[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")


def table(records: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)


def parquet(records: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(pyarrow.Table.from_pylist(records), path)


WRITERS: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    ".jsonl": json_lines,
    ".json": json_array,
    ".csv": table,
    ".parquet": parquet,
}


def mutants(content: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield the content with up to four bytes changed, words put in, and parts cut or repeated."""
    for _ in range(MUTANTS):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(changed) + 1)
            end = min(len(changed), start + chance.randint(0, 20))
            kind = chance.randrange(4)
            if kind == 0:
                changed[start : start + 1] = bytes([chance.randrange(256)])
            elif kind == 1:
                changed[start:start] = chance.choice(WORDS)
            elif kind == 2:
                del changed[start:end]
            else:
                changed[start:start] = changed[start:end]
        yield bytes(changed)


def refusal_of(data: DataSection, path: Path, errors: DataErrors) -> str:
    """Return the words of the error, empty if there is none; any other error is a fault."""
    try:
        (source,) = find_sources(data)
        preview(source, loss_on="answers", errors=errors)
        samples_of(path, errors=errors)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", RECORDS)
def test_a_damaged_file(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    WRITERS[suffix](RECORDS[kind], path)
    content = path.read_bytes()
    data = DataSection(source=str(path))
    for mutant in mutants(content, random.Random(f"{suffix} {kind}")):
        path.write_bytes(mutant)
        for errors in ("stop", "skip"):
            refusal = refusal_of(data, path, errors)
            assert "\n" not in refusal
            assert not refusal or path.name in refusal
