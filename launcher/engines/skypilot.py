"""A cloud's machines through SkyPilot: a task, or a managed job where they may be taken away."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from launcher.engines.client_command import answer, attempt, reason, shown_answer
from launcher.engines.engine import EngineError, Look, State
from launcher.engines.job import PLAN_NAME, Job, Rendered
from launcher.engines.readable_yaml import yaml_text
from launcher.engines.remote_plan import HOME, inputs_here, plan_away
from launcher.engines.settings import read_settings
from launcher.engines.skypilot_task import (
    IDLE_MINUTES,
    TASK_NAME,
    SkySettings,
    check_storage,
    launch_command,
    run_directory,
    task,
)
from launcher.run.read_plan import plan_text

INSTALL = "pip install skypilot, in an environment of its own, and put its sky on the PATH"
_SUBMITTED = re.compile(r"Job ID: (\d+)|Job submitted, ID: (\d+)")
STATES: dict[str, State] = {
    **dict.fromkeys(("PENDING", "SUBMITTED", "STARTING", "INIT", "SETTING_UP"), "waiting"),
    **dict.fromkeys(("RUNNING", "WINDING_DOWN", "RECOVERING", "CANCELLING"), "running"),
    "SUCCEEDED": "finished",
    "CANCELLED": "cancelled",
}
"""Of managed jobs and of a cluster's; what begins with FAILED has. read: sky/jobs/state.py and
sky/skylet/job_lib.py at 0.14.1."""


class SkyPilot:
    def render(self, job: Job) -> Rendered:
        """Looks which of the plan's inputs are on this machine's disk."""
        settings = read_settings(SkySettings, "skypilot", job.settings)
        check_storage(job.plan, settings)
        inputs = inputs_here(job)
        places = {name: f"{HOME}/inputs/{n}/{Path(name).name}" for n, name in enumerate(inputs)}
        uploads = {places[name]: str(path) for name, path in inputs.items()}
        return Rendered(
            files={
                PLAN_NAME: plan_text(plan_away(job.plan, places, run_directory(job, settings))),
                TASK_NAME: yaml_text(task(job, settings, uploads)),
            },
            commands=(launch_command(job, settings),),
        )

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        """A secret that is not set, and what SkyPilot's own reader says of the task."""
        command = rendered.commands[0]
        secrets = [value for key, value in pairwise(command) if key == "--secret"]
        unset = [f"{name} is not set here" for name in secrets if name not in os.environ]
        program = shutil.which("sky")
        if program is None:
            raise EngineError(f"sky is not installed: {INSTALL}")
        python = Path(program).resolve().parent / "python"
        read = "import sys, sky; sky.Task.from_yaml(sys.argv[1])"
        done = attempt([str(python), "-c", read, TASK_NAME], install=INSTALL, folder=folder)
        return unset if done.returncode == 0 else [*unset, reason(done)]

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """A managed job's number, or the name of the cluster that has the job alone."""
        command = rendered.commands[0]
        said = shown_answer(command, install=INSTALL, folder=folder)
        if "--cluster" in command:
            return command[command.index("--cluster") + 1]
        found = _SUBMITTED.search(said)
        if found is None:
            raise EngineError("sky jobs launch told no job's number: see sky jobs queue")
        return found[1] or found[2]

    def look(self, job_id: str) -> Look:
        managed = job_id.isdigit()
        command = ["sky", "jobs", "queue", "--all"] if managed else ["sky", "queue", job_id]
        listed = json_of(answer([*command, "--output", "json"], install=INSTALL))
        if managed:
            jobs = [row for row in listed if str(row["job_id"]) == job_id]
        else:
            jobs = sorted(listed.get(job_id, ()), key=lambda row: row["job_id"])
        if not jobs:
            raise EngineError(
                f"SkyPilot has no job {job_id}: a cluster goes {IDLE_MINUTES} minutes after its "
                "job has ended. The run directory has the run"
            )
        return look_of(jobs[-1])

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        command = ["sky", "jobs", "logs"] if job_id.isdigit() else ["sky", "logs"]
        done = attempt([*command, job_id, "--no-follow", "--tail", "0"], install=INSTALL)
        return done.stdout[offset:], max(offset, len(done.stdout))

    def cancel(self, job_id: str) -> None:
        of_cluster = ["sky", "cancel", "--yes", "--all", job_id]
        managed = ["sky", "jobs", "cancel", "--yes", job_id]
        answer(managed if job_id.isdigit() else of_cluster, install=INSTALL)


def json_of(text: str) -> Any:
    """The document; SkyPilot says other things before it."""
    found = re.search(r"^[\[{]", text, re.MULTILINE)
    if found is None:
        raise EngineError(f"sky told no list of jobs but: {text.strip()[:200]}")
    return json.loads(text[found.start() :])


def look_of(record: Mapping[str, Any]) -> Look:
    """SkyPilot does not tell the exit code, only that one was not 0."""
    status = str(record["status"])
    state = "failed" if status.startswith("FAILED") else STATES.get(status, "unknown")
    recovered = record.get("recovery_count") or 0
    told = [status.lower().replace("_", " ")]
    if recovered:
        told.append(f"recovered {recovered} times")
    told += [str(record[key]) for key in ("failure_reason", "details") if record.get(key)]
    return Look(state=state, detail="; ".join(told))


ENGINE = SkyPilot()
