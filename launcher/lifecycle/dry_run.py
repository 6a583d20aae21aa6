"""What a launch would do, as text to read and to copy. No function has side effects."""

import json
import shlex

from launcher.run.rank_commands import (
    Rendezvous,
    environment_changes,
    rank_environment,
    torchrun_command,
)
from launcher.run.run_directory import RunDirectory
from launcher.training.deepspeed_config import deepspeed_config
from planner.base.phrases import Joined, Phrase
from planner.plan.schema import Plan


def dry_run_text(
    plan: Plan,
    run: RunDirectory,
    *,
    python: str,
    cores: int,
    rendezvous: Rendezvous | None = None,
    network: dict[str, str] | None = None,
    max_restarts: int = 0,
) -> Joined:
    """Return the environment, the command and DeepSpeed's configuration of a launch.

    ``python`` is the interpreter, ``cores`` the number of cores that a process may use, and
    ``network`` the variables that name the interface of several nodes.
    """
    changes = environment_changes(plan, cores=cores, max_restarts=max_restarts) | (network or {})
    environment = rank_environment(plan, changes)
    command = torchrun_command(
        plan, run, python=python, rendezvous=rendezvous, max_restarts=max_restarts
    )
    parts: list[str] = [
        Phrase("run directory: {path}", path=run.path),
        Phrase("environment:"),
        *(f"  {name}={value}" for name, value in environment.items()),
        Phrase("command:"),
        f"  {shlex.join(command)}",
    ]
    config = deepspeed_config(plan)
    if config is not None:
        parts += ["deepspeed.json:", json.dumps(config, indent=2)]
    return Joined("\n", [*parts, ""])
