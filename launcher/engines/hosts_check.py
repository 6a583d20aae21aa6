"""Whether a run can start on every host, asked before it starts on any."""

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launcher.engines.client_command import ClientResult, run_to_answer
from launcher.engines.engine import EngineError
from planner.base.phrases import Phrase

ANSWER_SECONDS = 20
"""Seconds for a host to answer."""
SSH_FAILED = 255
"""Exit code of ssh if an error occurred, or the remote command was killed; read: ssh(1)."""
AT_ONCE = 32
"""Number of hosts that are asked at a time."""


def host_problems(commands: Sequence[Sequence[str]], plan_file: Path) -> list[str]:
    """Return a sentence per host that cannot be reached, or does not see the run directory.

    ``commands`` are the ssh commands that will start the run, one per host.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = pool.map(lambda command: host_problem(command, plan_file), commands)
    return [problem for problem in problems if problem is not None]


def host_problem(command: Sequence[str], plan_file: Path) -> str | None:
    """Return what keeps one host from starting the run; None if nothing does."""
    host = command[-2]
    try:
        done = ask_host(command, f"test -r {shlex.quote(str(plan_file))}")
    except TimeoutError:
        return Phrase(
            "{host} does not answer within {seconds} s",
            host=host,
            seconds=ANSWER_SECONDS,
        )
    if done.code == SSH_FAILED:
        return Phrase(
            "{host} cannot be reached: {reason}", host=host, reason=last_line(done.errors)
        )
    if done.code != 0:
        return Phrase(
            "{host} does not see {plan_file}: the run directory must be on storage that "
            "all hosts share (--output DIR)",
            host=host,
            plan_file=plan_file,
        )
    return None


def ask_host(command: Sequence[str], remote: str) -> ClientResult:
    """Run another remote command on the host of an ssh command; raise ``TimeoutError``."""
    try:
        return run_to_answer([*command[:-1], remote], limit_s=ANSWER_SECONDS)
    except FileNotFoundError as error:
        raise EngineError(
            Phrase(
                "--on hosts starts hosts with ssh, which is not installed: apt-get install "
                "openssh-client"
            )
        ) from error


def last_line(text: str) -> str:
    """Return the last line of what ssh printed."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else Phrase("ssh ended without a message")
