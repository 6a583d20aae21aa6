"""One case in a forked process with limits, and what is wrong with how it ended."""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MOST_CPU_SECONDS = 5
MOST_WALL_SECONDS = 60
"""Also where the other processes of the machine leave little of a processor."""
MOST_MIB = 300
_ALLOWED = {"\n", "\t"}


class Outcome(NamedTuple):
    """How a case ended."""

    code: int
    """Exit status; negative for the signal that ended it."""
    seconds: float
    """Processor time."""
    mib: float
    """Resident memory at its largest, shared pages counted."""
    output: str
    errors: str

    @property
    def fault(self) -> str | None:
        """What must not happen, or None."""
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        if self.code == 2 and len(self.errors.splitlines()) != 1:
            return f"{len(self.errors.splitlines())} lines of error"
        if self.mib > MOST_MIB:
            return f"{self.mib:.0f} MiB"
        shown = self.output + self.errors
        hidden = {each for each in shown if not each.isprintable() and each not in _ALLOWED}
        return f"control characters {sorted(hidden)!r}" if hidden else None


def run(case: Callable[[], object], folder: Path) -> Outcome:
    """Run a case in ``folder``, where its output is kept in two files."""
    output, errors = folder / "stdout", folder / "stderr"
    child = os.fork()
    if child == 0:
        _become(case, folder, output, errors)
    _, status, used = os.wait4(child, 0)
    return Outcome(
        code=os.waitstatus_to_exitcode(status),
        seconds=used.ru_utime + used.ru_stime,
        mib=used.ru_maxrss / 1024,
        output=output.read_text(encoding="utf-8", errors="surrogateescape"),
        errors=errors.read_text(encoding="utf-8", errors="surrogateescape"),
    )


def _become(case: Callable[[], object], folder: Path, output: Path, errors: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        for number, file in ((1, output), (2, errors)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
        signal.alarm(MOST_WALL_SECONDS)
        case()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
