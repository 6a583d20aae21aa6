"""What rank 0 reports of a run: a display, and metrics on disk."""

import json
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from launcher.training.clocks import BatchClock
from planner.base.units import GIB
from tests.launcher.display.reported import LOGS, run_through


def test_a_line_a_logged_step_and_a_row_of_metrics(tmp_path: Path) -> None:
    stream = StringIO()
    reporter = run_through(stream, tmp_path / "metrics.jsonl")

    lines = stream.getvalue().splitlines()
    assert [line[: line.index("GiB")] for line in lines] == [
        f"step {step}/2  loss  1.5000  lr 2.00e-04    1,200 tokens/s  data  20%   2.00 "
        for step in (1, 2)
    ]
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    logged = {name: value for name, value in LOGS.items() if name != "entropy"}
    read = {"peak_used_bytes": 2 * GIB, "temperature_c": 60, "power_watts": 250}
    assert [json.loads(row) for row in text.splitlines()] == [
        {"step": step, **logged, **read} for step in (1, 2)
    ]
    assert list(reporter.tokens_per_second) == [1200.0, 1200.0]


def test_time_without_batches_is_counted() -> None:
    def slow() -> Iterator[int]:
        yield 1
        time.sleep(0.05)
        yield 2

    clock = BatchClock()
    source = slow()
    assert next(clock.timed(source)) == 1
    assert clock.seconds < 0.04
    assert list(clock.timed(source)) == [2]
    assert clock.seconds >= 0.05
    clock.restart()
    assert clock.seconds == 0.0
    clock.note_length(7)
    clock.note_length(5)
    assert clock.longest == 7
