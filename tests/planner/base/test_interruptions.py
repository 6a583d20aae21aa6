"""Ctrl-C ends a command that imports; streams whose reader is gone take every line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from planner.base.interruptions import unread_stream


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


INTERRUPTED_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
class CtrlC:
    def find_spec(self, name, *_):
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
__import__("importlib").import_module(sys.argv[1]).main()
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("planner.__main__", "planner.cli.plan_command"),
        ("launcher.__main__", "launcher.cli.launch_command"),
    ],
)
def test_ctrl_c_during_an_import(program: str, module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, program, module]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
