"""Whether every host can be started on, asked before any is."""

import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launcher.engines.client_command import completed
from launcher.engines.engine import EngineError

ANSWER_SECONDS = 20
SSH_FAILED = 255
"""read: ssh(1), its exit status where an error occurred, and where the command was killed."""
AT_ONCE = 32


def host_problems(commands: Sequence[Sequence[str]], plan_file: Path) -> list[str]:
    """A sentence for each host that cannot be reached, or does not see the run directory."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda command: host_problem(command, plan_file), commands)
    return [problem for problem in found if problem is not None]


def host_problem(command: Sequence[str], plan_file: Path) -> str | None:
    host = command[-2]
    try:
        done = asked(command, f"test -r {shlex.quote(str(plan_file))}")
    except subprocess.TimeoutExpired:
        return f"{host} does not answer within {ANSWER_SECONDS} s"
    if done.returncode == SSH_FAILED:
        return f"{host} cannot be reached: {last_line(done.stderr)}"
    if done.returncode != 0:
        return (
            f"{host} does not see {plan_file}: the run directory has to be on storage that "
            "all hosts share (--output DIR)"
        )
    return None


def answers(command: Sequence[str]) -> bool:
    try:
        return asked(command, "true").returncode == 0
    except subprocess.TimeoutExpired:
        return False


def asked(command: Sequence[str], remote: str) -> subprocess.CompletedProcess[str]:
    """Another question to the host of an ssh command."""
    try:
        return completed([*command[:-1], remote], limit_s=ANSWER_SECONDS)
    except FileNotFoundError as error:
        raise EngineError(
            "--on hosts starts hosts with ssh, which is not installed: "
            "apt-get install openssh-client"
        ) from error


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "ssh ended without a word"
