"""Runs the probes side by side within a time limit, and turns how they end into findings."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.compat.requirements import INSTALL
from launcher.doctor.finding import Finding, failed, finding_of
from launcher.doctor.probes import ALL_REDUCE, BUILD, FACTS, FOUR_BIT, GLOO
from launcher.doctor.subject import TorchFacts
from planner.base.phrases import Phrase
from planner.base.python_children import child_environment, module_command

LIMIT_SECONDS = 60.0
"""Loading the libraries from a cold disk takes most of it."""
PROBES: Mapping[str, tuple[str, str]] = {
    "torch": (FOUR_BIT, BUILD),
    "all-reduce": (ALL_REDUCE, GLOO),
}
"""Name of the check that a probe is for, and the remedy if the probe ends without a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResults:
    """What the probes have found."""

    torch: TorchFacts | None
    """None if PyTorch cannot be imported."""
    findings: Mapping[str, Finding]
    """Findings by the name of their check."""


class ProbeRunner:
    """Probes that run from the start, so that other checks can be made meanwhile."""

    def __init__(self, environ: Mapping[str, str], *, limit_s: float = LIMIT_SECONDS) -> None:
        self._ends = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._running = {name: _start(name, environ) for name in PROBES}

    def results(self) -> ProbeResults:
        """Wait for the probes, and kill those that are not done in time."""
        contents: dict[str, Any] = {}
        for name, process in self._running.items():
            check, remedy = PROBES[name]
            lines, problem = self._end(process)
            contents |= {key: value for line in lines for key, value in json.loads(line).items()}
            if check not in contents:
                missing = problem.startswith("ModuleNotFoundError")
                contents[check] = failed(problem, INSTALL if missing else remedy).as_message()
        facts = contents.pop(FACTS, None)
        return ProbeResults(
            torch=None if facts is None else _torch_facts(facts),
            findings={name: finding_of(content) for name, content in contents.items()},
        )

    def _end(self, process: subprocess.Popen[str]) -> tuple[list[str], str]:
        """Return the lines that a probe printed, and how it ended in words."""
        try:
            output, errors = process.communicate(timeout=max(0.1, self._ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            return _lines(output), Phrase("no answer within {limit:.0f} s", limit=self._limit_s)
        return _lines(output), ending(process.returncode, errors)


def ending(code: int, errors: str) -> str:
    """Return why a probe ended without a result, from its exit code and standard error."""
    if code < 0:
        return Phrase("the probe was killed by {name}", name=signal.Signals(-code).name)
    lines = _lines(errors)
    return lines[-1][:160] if lines else Phrase("the probe ended with exit code {code}", code=code)


def _start(name: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*module_command("launcher.doctor.probes"), name],
        env=child_environment(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _torch_facts(content: dict[str, Any]) -> TorchFacts:
    return TorchFacts(**{**content, "architectures": tuple(content["architectures"])})


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
