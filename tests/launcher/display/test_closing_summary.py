"""What is shown when a run has ended."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.display.closing_summary import (
    closing_lines,
    failure_lines,
    stack_lines,
    summary_table,
)
from launcher.run.run_directory import RunDirectory
from tests.launcher.plans import full, plan

REPORT: dict[str, Any] = {
    "measured": {
        "peak_allocated_bytes": None,
        "peak_reserved_bytes": None,
        "peak_resident_bytes": 700 * 2**20,
        "step_time_s": 0.25,
        "tokens_per_second": 1234.5,
        "run_time_s": 75.0,
    },
    "utilisation": {"losses": []},
    "training": {"num_steps": 12, "first_loss": 5.5, "last_loss": 0.25},
}


def drawn(content: Any) -> str:
    console = Console(width=80, file=StringIO())
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def test_on_the_cpu_resident_memory_is_compared() -> None:
    ends = {"prediction__low_bytes": 600 * 2**20, "prediction__high_bytes": 720 * 2**20}
    text = drawn(summary_table(plan(**ends), REPORT))
    assert "peak resident per process   0.59-0.70 GiB   0.68 GiB" in text
    assert "reserved" not in text


def test_on_a_gpu_allocated_memory_is_compared() -> None:
    measured = {
        **REPORT["measured"],
        "peak_allocated_bytes": 2**30,
        "peak_reserved_bytes": 2 * 2**30,
        "ranks": [{"device_used_bytes": 3 * 2**30}, {"device_used_bytes": 2**30}],
    }
    text = drawn(summary_table(plan(hardware__device="cuda"), {**REPORT, "measured": measured}))
    lines = [line.split() for line in text.splitlines()]
    assert ["peak", "allocated", "per", "GPU", "0.04", "GiB", "1.00", "GiB"] in lines
    assert ["peak", "reserved", "per", "GPU", "-", "2.00", "GiB"] in lines
    assert "in use per GPU at the end   0.04-0.04 GiB   3.00 GiB" in text


def test_an_unknown_speed_is_not_invented() -> None:
    text = drawn(summary_table(plan(), REPORT))
    assert re.search("tokens per second +- +1,234", text)


def test_closing_lines_say_what_came_of_it_and_what_is_next() -> None:
    run = RunDirectory(Path("runs/x"))
    assert closing_lines(plan(data__source="demo"), run, REPORT) == [
        "loss 5.5000 -> 0.2500 in 12 steps, 1 min 15 s",
        "adapter: runs/x/adapter",
        "next: python -m launcher.quiz runs/x, or launch --chat runs/x",
    ]


def test_other_data_has_no_questions() -> None:
    lines = closing_lines(plan(**full()), RunDirectory(Path("runs/x")), REPORT)
    assert lines[-2:] == ["model: runs/x/model", "next: launch --chat runs/x"]


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("\n".join(f"line {number}" for number in range(40)) + "\n\n", encoding="utf-8")
    lines = failure_lines(log, "training failed")
    assert lines[0] == f"error: training failed. The end of {log}:"
    assert lines[-1] == "  line 39"
    assert len(lines) == 16


def test_a_failure_without_log(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    assert failure_lines(log, "training failed") == [f"error: training failed. The log is {log}"]


def test_a_hung_rank_shows_its_stack_innermost_first(tmp_path: Path) -> None:
    log = tmp_path / "rank-1.log"
    log.write_text(
        "loading\nCurrent thread 0x1 (most recent call first):\n  old\n"
        "Stack (most recent call first):\n  inner\n  outer\n\nExtension modules: yaml\n",
        encoding="utf-8",
    )
    first, *stack = stack_lines(log, "no progress")
    assert first.startswith("error: no progress. Its stack, innermost first, from ")
    assert stack == ["  inner", "  outer"]


def test_a_rank_that_was_frozen_wrote_no_stack(tmp_path: Path) -> None:
    log = tmp_path / "rank-1.log"
    log.write_text("loading\n", encoding="utf-8")
    assert stack_lines(log, "no progress")[-1] == "  loading"
