"""The engine ``skypilot``: a cluster of a cloud, or a managed job on spot machines."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from launcher.engines.client_command import output_of, run_client, shown_output_of
from launcher.engines.engine import EngineError, JobState, JobStatus
from launcher.engines.job import PLAN_NAME, Job, Rendered
from launcher.engines.readable_yaml import yaml_text
from launcher.engines.remote_plan import HOME, local_inputs, remote_plan
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
from planner.base.phrases import Joined, Phrase

INSTALL = Phrase("pip install skypilot, in an environment of its own, and put its sky on the PATH")
_SUBMITTED = re.compile(r"Job ID: (\d+)|Job submitted, ID: (\d+)")
STATES: dict[str, JobState] = {
    **dict.fromkeys(("PENDING", "SUBMITTED", "STARTING", "INIT", "SETTING_UP"), "waiting"),
    **dict.fromkeys(("RUNNING", "WINDING_DOWN", "RECOVERING", "CANCELLING"), "running"),
    "SUCCEEDED": "finished",
    "CANCELLED": "cancelled",
}
"""State by status of a managed job or a cluster's job; those that begin with FAILED have failed.
read: sky/jobs/state.py and sky/skylet/job_lib.py at 0.14.1."""


class SkyPilot:
    """SkyPilot, which finds machines in a cloud."""

    def is_like_here(self, job: Job) -> bool:
        """Return False: a machine has only what is uploaded."""
        return False

    def render(self, job: Job) -> Rendered:
        """Return the task and the plan; inputs that are on this machine's disk are uploaded."""
        settings = read_settings(SkySettings, "skypilot", job.settings)
        check_storage(job.plan, settings)
        inputs = local_inputs(job)
        places = {name: f"{HOME}/inputs/{n}/{Path(name).name}" for n, name in enumerate(inputs)}
        uploads = {places[name]: str(path) for name, path in inputs.items()}
        return Rendered(
            files={
                PLAN_NAME: plan_text(remote_plan(job.plan, places, run_directory(job, settings))),
                TASK_NAME: yaml_text(task(job, settings, uploads)),
            },
            commands=(launch_command(job, settings),),
        )

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        """Return a sentence per secret that is not set, and SkyPilot's objection to the task."""
        command = rendered.commands[0]
        secrets = [value for key, value in pairwise(command) if key == "--secret"]
        unset: list[str] = [
            Phrase("{name} is not set here", name=name)
            for name in secrets
            if name not in os.environ
        ]
        program = shutil.which("sky")
        if program is None:
            raise EngineError(Phrase("sky is not installed: {install}", install=INSTALL))
        python = Path(program).resolve().parent / "python"
        read = "import sys, sky; sky.Task.from_yaml(sys.argv[1])"
        done = run_client([str(python), "-c", read, TASK_NAME], install=INSTALL, folder=folder)
        return unset if done.code == 0 else [*unset, done.reason]

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """Submit the task; return a managed job's number, or the name of the job's cluster."""
        command = rendered.commands[0]
        output = shown_output_of(command, install=INSTALL, folder=folder)
        if "--cluster" in command:
            return command[command.index("--cluster") + 1]
        number = _SUBMITTED.search(output)
        if number is None:
            raise EngineError(
                Phrase("sky jobs launch has printed no job number: see sky jobs queue")
            )
        return number[1] or number[2]

    def status(self, job_id: str) -> JobStatus:
        """Return the job's state; a cluster has one job."""
        managed = job_id.isdigit()
        command = ["sky", "jobs", "queue", "--all"] if managed else ["sky", "queue", job_id]
        listed = json_of(output_of([*command, "--output", "json"], install=INSTALL))
        if managed:
            jobs = [row for row in listed if str(row["job_id"]) == job_id]
        else:
            jobs = sorted(listed.get(job_id, ()), key=lambda row: row["job_id"])
        if not jobs:
            raise EngineError(
                Phrase(
                    "SkyPilot has no job {job_id}: a cluster is taken down {idle_minutes} "
                    "minutes after its job. Its output is in the run directory",
                    job_id=job_id,
                    idle_minutes=IDLE_MINUTES,
                )
            )
        return status_of(jobs[-1])

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """Return what the job has printed since ``offset``, and the next offset."""
        command = ["sky", "jobs", "logs"] if job_id.isdigit() else ["sky", "logs"]
        done = run_client([*command, job_id, "--no-follow", "--tail", "0"], install=INSTALL)
        return done.output[offset:], max(offset, len(done.output))

    def cancel(self, job_id: str) -> None:
        """Cancel the managed job, or all jobs of the cluster."""
        on_cluster = ["sky", "cancel", "--yes", "--all", job_id]
        managed = ["sky", "jobs", "cancel", "--yes", job_id]
        output_of(managed if job_id.isdigit() else on_cluster, install=INSTALL)


def json_of(text: str) -> Any:
    """Return the document at the end of what SkyPilot prints."""
    begins = re.search(r"^[\[{]", text, re.MULTILINE)
    if begins is None:
        raise EngineError(
            Phrase("sky has printed no list of jobs but: {text}", text=text.strip()[:200])
        )
    return json.loads(text[begins.start() :])


def status_of(record: Mapping[str, Any]) -> JobStatus:
    """Return a job's state; SkyPilot does not report the exit code."""
    status = str(record["status"])
    state = "failed" if status.startswith("FAILED") else STATES.get(status, "unknown")
    recovered = record.get("recovery_count") or 0
    words = [status.lower().replace("_", " ")]
    if recovered:
        words.append(
            Phrase("recovered once")
            if recovered == 1
            else Phrase("recovered {recovered} times", recovered=recovered)
        )
    words += [str(record[key]) for key in ("failure_reason", "details") if record.get(key)]
    return JobStatus(state=state, detail=Joined("; ", words))


ENGINE = SkyPilot()
