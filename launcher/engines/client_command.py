"""An engine's own client, as a command."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.engines.engine import EngineError


def answer(command: Sequence[str], *, install: str, folder: Path | None = None) -> str:
    """What it prints. Raises ``EngineError`` with its own words where it fails, and with how to
    install it where it is not there."""
    done = attempt(command, install=install, folder=folder)
    if done.returncode != 0:
        raise EngineError(f"{shlex.join(command)}: {reason(done)}")
    return done.stdout


def attempt(
    command: Sequence[str], *, install: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return completed(command, folder=folder)
    except FileNotFoundError as error:
        raise EngineError(f"{command[0]} is not installed: {install}") from error


def completed(
    command: Sequence[str], *, folder: Path | None = None, limit_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Raises ``FileNotFoundError`` and ``TimeoutExpired``, for each engine to say what to do."""
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit_s,
        check=False,
    )


def shown_answer(command: Sequence[str], *, install: str, folder: Path) -> str:
    """As :func:`answer`, of a command that takes minutes: its lines are shown as they come."""
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
        raise EngineError(f"{command[0]} is not installed: {install}") from error
    if client.returncode != 0:
        raise EngineError(f"{shlex.join(command)} ended with exit code {client.returncode}")
    return "".join(lines)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing said, which is what went wrong."""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said[-1] if said else f"exit code {done.returncode}, without a word"
