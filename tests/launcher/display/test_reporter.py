"""Progress on terminals and in pipes, and metrics on disk."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import TextIO

import pytest

pytest.importorskip("transformers")

from launcher.display.live_view import expected_of
from launcher.display.reporter import LiveDisplay, PlainDisplay, Progress, Reporter, display_on
from launcher.display.sensors import Gauge, ResidentSensors
from launcher.training.batch_clock import BatchClock
from planner.base.units import GIB
from tests.launcher.launching import environment
from tests.launcher.plans import plan

LOGS = {
    "loss": 1.5,
    "learning_rate": 2e-4,
    "tokens_per_second": 1200.0,
    "step_time_s": 0.5,
    "data_wait_s": 0.1,
    "entropy": 3.0,
}


class OneGpu:
    """Gauges that say the same each time."""

    def __init__(self) -> None:
        self.times_read = 0

    def read(self) -> list[Gauge]:
        self.times_read += 1
        return [
            Gauge(
                name="GPU 0",
                used_bytes=GIB,
                peak_bytes=2 * GIB,
                temperature_c=60,
                power_watts=250,
            )
        ]


def run_through(stream: TextIO, metrics: Path, *, steps: int = 2) -> Reporter:
    reporter = Reporter(stream, metrics, expected=expected_of(plan()), sensors=OneGpu())
    reporter.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=steps), None)
    for step in range(1, steps + 1):
        state = SimpleNamespace(global_step=step)
        reporter.on_step_end(None, state, None)
        reporter.on_log(None, state, None, logs=LOGS)
    reporter.on_log(None, SimpleNamespace(global_step=steps), None, logs={"train_runtime": 3.0})
    reporter.on_train_end()
    return reporter


def test_a_pipe_gets_plain_lines() -> None:
    progress = Progress(expected_of(plan()), OneGpu())
    assert isinstance(display_on(StringIO(), progress), PlainDisplay)


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
    assert reporter.losses == [1.5, 1.5]


def chunks(terminal: int) -> Iterator[bytes]:
    """All that is printed on a terminal, until nobody can print any more."""
    while True:
        try:
            yield os.read(terminal, 2**16)
        except OSError:
            return


def test_a_terminal_gets_one_frame_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 72, 0, 0))
    printed: list[bytes] = []
    reader = Thread(target=lambda: printed.extend(chunks(master)))
    reader.start()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        assert isinstance(display_on(stream, Progress(expected_of(plan()), OneGpu())), LiveDisplay)
        run_through(stream, tmp_path / "metrics.jsonl", steps=3)
    reader.join(timeout=10)
    os.close(master)
    text = b"".join(printed).decode()
    last = text[text.rindex("tiny, LoRA on CPU") :]
    assert "step 3 of 3  100%" in last
    assert "1.5000" in last
    assert "60 C" in last
    assert "250 W" in last


def test_the_time_left_is_that_of_the_steps_behind_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    sensors = OneGpu()
    progress = Progress(expected_of(plan()), sensors)
    progress.start(10, 20)  # resumed behind step 10
    assert progress.view().left_s is None
    for step, at in ((11, 150.0), (12, 152.0), (13, 154.0)):
        now[0] = at
        progress.advance(step)
    now[0] = 154.5
    assert progress.view().left_s == pytest.approx(7 * 2.0 - 0.5)
    assert progress.view().elapsed_s == pytest.approx(54.5)
    assert sensors.times_read == 2


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


def test_processes_are_read_from_the_kernel() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    one, other = ResidentSensors([os.getpid(), ended.pid]).read()
    assert one.name == "rank 0"
    assert one.peak_bytes is not None
    assert one.used_bytes is not None
    assert GIB > one.peak_bytes >= one.used_bytes > 2**20
    assert other == Gauge(name="rank 1", used_bytes=None, peak_bytes=None)


def test_what_libraries_print_goes_to_the_log(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from launcher.run.output import libraries_quiet\n"
        "with libraries_quiet(Path('log')) as screen:\n"
        "    print('noise'); os.system('echo more noise >&2'); print('ours', file=screen)\n"
        "print('back')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("ours\nback\n", "")
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert sorted(log.splitlines()) == ["more noise", "noise"]
