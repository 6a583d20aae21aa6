"""Tokenized samples on disk: Arrow streams, which ``datasets`` maps into memory."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

ROWS_A_BATCH = 1000
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


class TableWriter:
    """A writer of rows as they come, which holds one batch of them."""

    def __init__(self, path: Path) -> None:
        self._stream = pa.ipc.new_stream(str(path), SCHEMA)
        self._rows: list[tuple[Sequence[int], Sequence[int]]] = []
        self.num_rows = 0

    def add(self, input_ids: Sequence[int], labels: Sequence[int]) -> None:
        self._rows.append((input_ids, labels))
        self.num_rows += 1
        if len(self._rows) == ROWS_A_BATCH:
            self._flush()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._stream.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(list(column), type=kind.type)
                for column, kind in zip(columns, SCHEMA, strict=True)
            ]
            self._stream.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            self._rows = []


TRAIN = "train.arrow"
VALIDATION = "validation.arrow"


def training_table(folder: str) -> Any:
    """Return the rows of a prepared data set to train on, mapped into memory."""
    return read_table(Path(folder) / TRAIN)


def validation_table(folder: str) -> Any:
    """Return the rows that were kept out of training, or None if none were."""
    path = Path(folder) / VALIDATION
    return read_table(path) if path.is_file() else None


def read_table(path: Path) -> Any:
    from datasets import Dataset

    return Dataset.from_file(str(path))
