"""Processes that are told to end: nothing half made is left of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tests.launcher.launching import asked, environment, write_plan, write_records

FILLING = """
import sys, time
from pathlib import Path
from launcher.run.unwinding import unwound_by_sigterm
from launcher.storage.whole_folders import whole_folder
with unwound_by_sigterm(), whole_folder(Path(sys.argv[1])) as partial:
    try:
        (partial / f"half-{sys.argv[2]}").write_text("")
        while True:
            time.sleep(0.1)  # one long sleep would miss a signal that comes just before it
    finally:
        time.sleep(float(sys.argv[2]))
"""


@contextmanager
def running(command: list[str], folder: Path) -> Iterator["subprocess.Popen[str]"]:
    variables = environment(XDG_CACHE_HOME=str(folder / "cache"))
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=variables, text=True, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(folder: Path, pattern: str) -> None:
    end = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launch_that_is_stopped_as_it_tokenizes(
    number: int, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    data = tmp_path / "data.jsonl"
    write_records(data, [asked(f"What is {n}?", "no " * 50) for n in range(60_000)])
    write_plan(tmp_path, model__source=str(tiny_checkpoint))
    kept = tmp_path / "cache" / "tuneplan" / "data"
    with running(["-m", "launcher", "plan.yaml"], tmp_path) as process:
        wait_for(kept, ".*/train.arrow")
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    name = signal.Signals(number).name
    assert errors.splitlines()[-1] == f"error: stopped by {name} before the training began"
    assert [path for path in kept.iterdir() if path.suffix != ".lock"] == []


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with running(["-c", FILLING, "target", "60"], tmp_path) as process:
        wait_for(tmp_path, ".*/half-60")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_it_ends_with_the_code_of_the_signal(tmp_path: Path) -> None:
    with running(["-c", FILLING, "target", "0"], tmp_path) as process:
        wait_for(tmp_path, ".*/half-0")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_has_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    for delay in ("60", "0"):
        with running(["-c", FILLING, "target", delay], tmp_path) as process:
            wait_for(tmp_path, f".*/half-{delay}")
            process.send_signal(signal.SIGKILL if delay == "60" else signal.SIGTERM)
            process.wait(timeout=60)
    assert not list(tmp_path.iterdir())
