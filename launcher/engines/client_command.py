"""The clients of engines, run as commands: what they print, and why they fail."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.engines.engine import EngineError
from planner.base.phrases import Joined, Phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientResult:
    """What a client printed, and its exit code."""

    code: int
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """The last line that it printed, which says why it failed."""
        lines = (self.errors.strip() or self.output.strip()).splitlines()
        return lines[-1] if lines else Phrase("exit code {code}, and no message", code=self.code)


def run_to_answer(
    command: Sequence[str], *, folder: Path | None = None, limit_s: float | None = None
) -> ClientResult:
    """Run a client without input and return its result, whatever its exit code.

    Raise ``FileNotFoundError`` and ``TimeoutError``, for every engine to say what to do.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(
            Phrase(
                "{command} has not answered for {limit_s:g} s", command=command[0], limit_s=limit_s
            )
        ) from error
    return ClientResult(code=done.returncode, output=done.stdout, errors=done.stderr)


def run_client(command: Sequence[str], *, install: str, folder: Path | None = None) -> ClientResult:
    """Return a client's result; raise ``EngineError`` with how to ``install`` a missing one."""
    try:
        return run_to_answer(command, folder=folder)
    except FileNotFoundError as error:
        raise EngineError(
            Phrase("{command} is not installed: {install}", command=command[0], install=install)
        ) from error


def output_of(command: Sequence[str], *, install: str, folder: Path | None = None) -> str:
    """Return what a client prints; raise ``EngineError`` with its reason if it fails."""
    done = run_client(command, install=install, folder=folder)
    if done.code != 0:
        raise EngineError(Joined(": ", [shlex.join(command), done.reason]))
    return done.output


def shown_output_of(command: Sequence[str], *, install: str, folder: Path) -> str:
    """Return what a client prints, and show its lines meanwhile, because it takes minutes.

    Raise ``EngineError`` if it fails or is not installed.
    """
    lines = []
    try:
        with subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as client:
            assert client.stdout is not None
            for line in client.stdout:
                sys.stderr.write(line)
                lines.append(line)
    except FileNotFoundError as error:
        raise EngineError(
            Phrase("{command} is not installed: {install}", command=command[0], install=install)
        ) from error
    if client.returncode != 0:
        raise EngineError(
            Phrase(
                "{command} ended with exit code {returncode}",
                command=shlex.join(command),
                returncode=client.returncode,
            )
        )
    return "".join(lines)
