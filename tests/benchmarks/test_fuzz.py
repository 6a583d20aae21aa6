"""A few mutated inputs of every kind: done, or refused in one line."""

import subprocess
import sys

from benchmarks.fuzz.cases import KINDS

CASES = 5


def test_mutated_input_is_done_or_refused() -> None:
    """In a process of its own, whose memory the cases share."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--cases", str(CASES), "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == len(KINDS)
    for kind, line in zip(KINDS, lines, strict=True):
        cases, finished, refused, wrong, *_ = map(float, line.removeprefix(kind).split())
        assert (cases, finished + refused, wrong) == (CASES, CASES, 0)
