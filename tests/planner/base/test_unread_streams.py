"""Streams whose reader is gone take every line, and their writer goes on."""

import os
import subprocess
import sys
from pathlib import Path

from planner.base.unread_streams import unread_stream


def test_a_line_that_is_read() -> None:
    read, write = os.pipe()
    with unread_stream(write) as stream:
        stream.write("step 1 \ud800\n")
        assert os.read(read, 100) == b"step 1 \\ud800\n"
    os.close(read)


def test_a_pipe_whose_reader_has_ended() -> None:
    read, write = os.pipe()
    os.close(read)
    with unread_stream(write) as stream:
        for _ in range(3):
            stream.write("step\n" * 10_000)


def test_a_terminal_that_was_closed() -> None:
    terminal, write = os.openpty()
    with unread_stream(write) as stream:
        assert stream.isatty()
        os.close(terminal)
        stream.write("step 1\n")


def test_a_full_disk() -> None:
    with unread_stream(os.open("/dev/full", os.O_WRONLY)) as stream:
        stream.write("step 1\n")


def test_an_error_that_nobody_reads_keeps_its_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "planner", "--gpus", "24Q", "--model", "gpt2"]
        done = subprocess.run(command, stderr=full, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
