"""One configuration asked of ``plan`` by one method, in a process of its own with a time limit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from msgspec import Struct, convert

from planner.plan.schema import Plan
from planner.plan.vocabulary import Method

LIMIT_S = 20.0
"""Seconds of processor time that a plan may take; how long one waits depends on what else the
machine does."""
MOST_S = 60.0
"""Seconds of processor time after which a plan is ended."""
MOST_WALL_S = 900.0
"""Seconds of wall time after which it is ended in any case, however busy the machine is."""
MACHINE = "8xh200"
POLL_S = 0.1
"""Seconds between two looks at the processes' time."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Asked(Struct, frozen=True, kw_only=True):
    """What ``plan`` answered."""

    seconds: float
    """Processor time of the command and of the service that it starts."""
    wall_s: float
    plan: Plan | None = None
    refusal: str | None = None
    """The last line of the error where there is no plan."""
    traced: bool = False
    """Whether the real model was traced, for lack of formulas."""
    fault: str | None = None
    """What must not happen, such as a traceback; None where there is nothing of the kind."""


def asked(folder: Path, method: Method) -> Asked:
    """Return the answer for the configuration in a folder."""
    command = [sys.executable, "-m", "planner", "--model", str(folder), "--gpus", MACHINE]
    command += ["--method", method, "--json", "-o", "-"]
    begun, used = time.monotonic(), dict[int, float]()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    ) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                used |= session_cpu_s(process.pid)
            wall_s, seconds = time.monotonic() - begun, sum(used.values())
            if seconds > MOST_S or wall_s > MOST_WALL_S:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                late = f"not finished in {seconds:.0f} s"
                return Asked(seconds=seconds, wall_s=wall_s, fault=late)
    wall_s = time.monotonic() - begun
    return answer_of(
        process.returncode, output, errors, seconds=sum(used.values()) or wall_s, wall_s=wall_s
    )


def answer_of(code: int, output: str, errors: str, *, seconds: float, wall_s: float) -> Asked:
    """Return what a command's exit code and its output say."""
    lines = errors.strip().splitlines()
    traced = any("traced instead" in line for line in lines)
    timed: dict[str, Any] = {"seconds": seconds, "wall_s": wall_s, "traced": traced}
    if code == 0:
        plan = convert(json.loads(output)["plan"], Plan)
        late = f"{seconds:.0f} s" if seconds > LIMIT_S else None
        return Asked(plan=plan, fault=late, **timed)
    last = lines[-1] if lines else ""
    if code == 2 and "Traceback" not in errors:
        return Asked(refusal=last, **timed)
    return Asked(refusal=last, fault=f"exit code {code}: {last[:200]}", **timed)


def session_cpu_s(session: int) -> dict[int, float]:
    """Return the processor time of each process of a session: the service that traces is not
    waited for, so that the kernel does not count it as a child's."""
    found = dict[int, float]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session:
            found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return found
