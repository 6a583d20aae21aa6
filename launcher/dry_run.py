"""What a launch would do, to read and to copy. Pure."""

import json
import shlex
from pathlib import Path

from launcher.command import environment_changes, rank_environment, torchrun_command
from launcher.deepspeed_config import deepspeed_config
from planner.plan import Plan


def dry_run_text(plan: Plan, directory: Path, *, python: str, cores: int) -> str:
    environment = rank_environment(plan, environment_changes(plan, cores=cores))
    parts = [
        f"run directory: {directory}",
        "environment:",
        *(f"  {name}={value}" for name, value in environment.items()),
        "command:",
        f"  {shlex.join(torchrun_command(plan, directory, python=python))}",
    ]
    config = deepspeed_config(plan)
    if config is not None:
        parts += ["deepspeed.json:", json.dumps(config, indent=2)]
    return "\n".join(parts) + "\n"
