"""A process that is asked in JSON: what it prints is no answer, what it reads is no question, and
it ends with who asks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.launcher.launching import REPOSITORY, environment

SECONDS = 60
ASKED = """
import os, sys, time
from launcher.run.answer_pipe import question_and_answer_pipes
questions, answers = question_and_answer_pipes()
print("a library's greeting")
try:
    input("Do you wish to run the custom code? ")
except EOFError:
    print(os.getpid(), questions.readline(), file=answers, flush=True)
time.sleep(600)
"""
ASKING = """
import subprocess, sys, time
command = [sys.executable, "-c", sys.argv[1]]
process = subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
)
print("who", file=process.stdin)
print(process.stdout.readline(), end="", flush=True)
time.sleep(600)
"""


def test_answers_are_apart_and_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    with (
        (tmp_path / "errors").open("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-c", ASKING, ASKED],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=REPOSITORY,
            env=environment(),
        ) as asking,
    ):
        assert asking.stdout is not None
        asked, question = asking.stdout.readline().split()
        asking.send_signal(signal.SIGKILL)
    until = time.monotonic() + SECONDS
    assert question == "who"
    while _runs(int(asked)):
        assert time.monotonic() < until, "it outlives the process that asked it"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is there that has not ended."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
