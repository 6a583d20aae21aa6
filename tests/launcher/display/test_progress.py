"""Progress on terminals and in pipes."""

import fcntl
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

import psutil
import pytest

pytest.importorskip("transformers")

from launcher.display.live_view import expected_of
from launcher.display.progress import LiveDisplay, PlainDisplay, Progress, display_on
from launcher.display.sensors import Gauge, ResidentSensors
from launcher.training.progress_callbacks import Reporter
from planner.base.interruptions import unread_stream
from tests.launcher.display.reported import LOGS, OneGpu, run_through
from tests.launcher.plans import plan


def test_a_pipe_gets_plain_lines() -> None:
    progress = Progress(expected_of(plan()), OneGpu())
    assert isinstance(display_on(StringIO(), progress), PlainDisplay)


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


def test_a_terminal_that_was_closed_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the frame's thread, which would ask for its size, and not the end of the training."""
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with unread_stream(slave) as stream:
        reporter = Reporter(
            stream,
            tmp_path / "metrics",
            expected=expected_of(plan()),
            sensors=OneGpu(),
            losses=list,
        )
        reporter.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=1), None)
        os.close(master)
        reporter.on_log(None, SimpleNamespace(global_step=1), None, logs=LOGS)
        reporter.on_train_end()
    assert '"step": 1' in (tmp_path / "metrics").read_text(encoding="utf-8")


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


def test_processes_are_read_from_the_kernel() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    one, other = ResidentSensors([os.getpid(), ended.pid]).read()
    assert one.name == "rank 0"
    assert one.peak_bytes is not None
    assert one.used_bytes is not None
    assert psutil.virtual_memory().total > one.peak_bytes >= one.used_bytes > 2**20
    assert other == Gauge(name="rank 1", used_bytes=None, peak_bytes=None)
