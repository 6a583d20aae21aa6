"""Slurm's commands, and what they say about a job."""

import re
from collections.abc import Mapping
from pathlib import Path

from launcher.engines.client_command import ClientResult, run_to_answer
from launcher.engines.engine import EngineError, JobState, JobStatus
from launcher.run.process import SIGNALLED, STOPPED
from planner.base.errors import reason_of
from planner.base.phrases import Joined, Phrase

COMMAND_LIMIT_S = 60
"""Time limit of one command: it waits for a controller that does not answer."""

_WORD = re.compile(r"(\w+)=(\S*)")

STATES: dict[str, JobState] = {
    "PENDING": "waiting",
    "CONFIGURING": "waiting",
    "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting",
    "RESV_DEL_HOLD": "waiting",
    "SPECIAL_EXIT": "waiting",
    "RUNNING": "running",
    "COMPLETING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
    "COMPLETED": "finished",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "BOOT_FAIL": "failed",
    "DEADLINE": "failed",
    "FAILED": "failed",
    "NODE_FAIL": "failed",
    "OUT_OF_MEMORY": "failed",
    "PREEMPTED": "failed",
    "TIMEOUT": "failed",
}
"""State by Slurm's word for it; read: squeue(1) of 22.05, JOB STATE CODES."""


def run_slurm(*command: str, folder: Path | None = None) -> ClientResult:
    """Run one of Slurm's commands and return its result, whatever its exit code.

    Raise ``EngineError`` if the command is missing or does not answer.
    """
    try:
        return run_to_answer(command, folder=folder, limit_s=COMMAND_LIMIT_S)
    except FileNotFoundError as error:
        raise EngineError(
            Phrase(
                "{command} is not installed here: --on slurm submits from a machine that has "
                "Slurm's commands, such as a login node of the cluster",
                command=command[0],
            )
        ) from error
    except TimeoutError as error:
        raise EngineError(
            Phrase("{error}: is slurmctld up? Check with: scontrol ping", error=reason_of(error))
        ) from error


def refusal_text(result: ClientResult) -> str:
    """Return a refusal in Slurm's words, on one line."""
    lines = (result.errors or result.output).splitlines()
    words = [re.sub(r"^(s\w+: )?(error: )?", "", line).strip() for line in lines]
    return Joined("; ", filter(None, words)) or Phrase("exit code {code}", code=result.code)


def shown_status(shown: str) -> JobStatus:
    """Return a job's state, from the line that ``scontrol --oneliner show job`` prints."""
    words: Mapping[str, str] = dict(_WORD.findall(shown))
    return described(
        words["JobState"],
        words.get("ExitCode", ""),
        reason=words.get("Reason", "None"),
        nodes=words.get("NodeList", ""),
        restarts=int(words.get("Restarts", "0")),
    )


def accounted_status(shown: str) -> JobStatus | None:
    """Return a job's state, from ``sacct --format=State,ExitCode``; None for an unknown job."""
    if not shown.strip():
        return None
    state, exit_code = shown.splitlines()[-1].split("|")
    return described(state.split()[0], exit_code)


def described(
    slurm_state: str,
    exit_code: str,
    *,
    reason: str = "None",
    nodes: str = "",
    restarts: int = 0,
) -> JobStatus:
    """Return a job's state from Slurm's words: ``exit_code`` is ``CODE:SIGNAL``."""
    state, code = STATES.get(slurm_state, "unknown"), code_of(exit_code)
    if slurm_state == "FAILED" and code in STOPPED:  # as launch ends when it is asked to stop
        return JobStatus(
            state="cancelled",
            detail=Phrase("stopped by {stopped}", stopped=STOPPED[code]),
            exit_code=code,
        )
    details = [
        slurm_state if slurm_state not in ("PENDING", "RUNNING", "COMPLETED") else "",
        reason if reason != "None" else "",
        Phrase("on {nodes}", nodes=nodes)
        if state == "running" and nodes not in ("", "(null)")
        else "",
        Phrase("restarted {restarts} times", restarts=restarts)
        if restarts > 1
        else Phrase("restarted once")
        if restarts
        else "",
        Phrase("ask for more by --with mem=...") if slurm_state == "OUT_OF_MEMORY" else "",
    ]
    return JobStatus(
        state=state,
        detail=Joined(", ", filter(None, details)),
        exit_code=code if slurm_state in ("COMPLETED", "FAILED") else None,
    )


def code_of(exit_code: str) -> int:
    """Return the exit code of Slurm's ``CODE:SIGNAL``, as a shell would.

    >>> code_of("143:0"), code_of("0:9"), code_of("")
    (143, 137, 0)
    """
    code, _, number = exit_code.partition(":")
    return SIGNALLED + int(number) if number not in ("", "0") else int(code or 0)
