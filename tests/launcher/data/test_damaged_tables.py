"""A table whose offsets point out of it is refused, and nothing is read there."""

import struct
from pathlib import Path

import pyarrow as pa
import pytest

from launcher.data.samples import SourceReader
from launcher.data.sources import find_sources
from planner.base.errors import UserError
from planner.plan.data_section import DataSection


def test_offsets_beyond_the_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.arrow"
    table = pa.table({"instruction": ["question"] * 4, "output": ["answered"] * 4})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = struct.pack("<5i", 0, 8, 16, 24, 32)
    damaged = struct.pack("<5i", 0, 8, 16, 24, 2**31 - 1)
    content = file.read_bytes()
    assert whole in content
    file.write_bytes(content.replace(whole, damaged))
    [source] = find_sources(DataSection(source=str(file)))
    with pytest.raises(UserError, match="is not an Arrow stream"):
        list(SourceReader(source, loss_on="answers", errors="stop").samples())
