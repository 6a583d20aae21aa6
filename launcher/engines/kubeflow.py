"""The engine ``kubeflow``: a Kubernetes cluster with Kubeflow Trainer, through kubectl."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.engines.client_command import output_of, run_client
from launcher.engines.engine import JobState, JobStatus
from launcher.engines.job import Job, Rendered
from launcher.engines.kubeflow_job import (
    NODE,
    KubeflowSettings,
    claim_name,
    lasting,
    run_directory,
    train_job,
)
from launcher.engines.readable_yaml import yaml_text
from launcher.engines.remote_plan import HOME, local_inputs, remote_plan
from launcher.engines.settings import read_settings
from launcher.run.read_plan import plan_text
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Joined, Phrase

LASTING = "claim-and-plan.yaml"
"""File of the objects that outlive a job."""
TRAIN_JOB = "trainjob.yaml"
INSTALL = Phrase("apt-get install kubernetes-client, or kubectl as Kubernetes has it")
CONDITIONS: dict[str, JobState] = {
    "Failed": "failed",
    "Complete": "finished",
    "Suspended": "waiting",
}
"""State by condition of a TrainJob, those that end it first; read: kubeflow/trainer,
pkg/apis/trainer/v1alpha1/trainjob_types.go at 0015772c."""
NODES = "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/replicatedjob-name=" + NODE
"""Selector of a job's pods; read: kubeflow 0.5.0, trainer/constants/constants.py,
POD_LABEL_SELECTOR."""


class Kubeflow:
    """Kubeflow Trainer on a Kubernetes cluster."""

    def is_like_here(self, job: Job) -> bool:
        """Return False: a container has only its volumes."""
        return False

    def render(self, job: Job) -> Rendered:
        """Return a claim, the plan and a TrainJob.

        Raise ``InvalidRequestError`` if an input of the plan is on this machine's disk.
        """
        settings = read_settings(KubeflowSettings, "kubeflow", job.settings)
        require_remote_inputs(job, claim_name(job, settings))
        plan = plan_text(remote_plan(job.plan, {}, run_directory(job)))
        kubectl = kubectl_at(settings.context or "", settings.namespace or "")
        return Rendered(
            files={
                LASTING: yaml_text(*lasting(job, plan, settings)),
                TRAIN_JOB: yaml_text(train_job(job, settings)),
            },
            commands=(
                (*kubectl, "apply", "--filename", LASTING),
                (*kubectl, "create", "--filename", TRAIN_JOB, "--output", "json"),
            ),
        )

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        """Return what the cluster would refuse, by a dry run that stores nothing there."""
        tried = [
            run_client([*command, "--dry-run=server"], install=INSTALL, folder=folder)
            for command in rendered.commands
        ]
        return [done.reason for done in tried if done.code != 0]

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """Submit the job; return ``CONTEXT/NAMESPACE/NAME``, an empty context for kubectl's own."""
        applying, creating = rendered.commands
        output_of(applying, install=INSTALL, folder=folder)
        created = json.loads(output_of(creating, install=INSTALL, folder=folder))["metadata"]
        context = creating[creating.index("--context") + 1] if "--context" in creating else ""
        return f"{context}/{created['namespace']}/{created['name']}"

    def status(self, job_id: str) -> JobStatus:
        """Return the job's state; a job that was deleted is cancelled."""
        kubectl, name = kubectl_of(job_id)
        get = [*kubectl, "get", "trainjob", name, "--ignore-not-found", "--output", "json"]
        train_job = output_of(get, install=INSTALL)
        if not train_job.strip():
            return JobStatus(state="cancelled", detail="deleted")
        status = status_of(json.loads(train_job).get("status", {}))
        if status.state != "failed":
            return status
        pods = [*kubectl, "get", "pods", "--selector", NODES.format(name), "--output", "json"]
        items = json.loads(output_of(pods, install=INSTALL))["items"]
        return replace(status, exit_code=exit_code_of(items))

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """Return all nodes' new lines in the order of their times; ``offset`` counts lines."""
        kubectl, name = kubectl_of(job_id)
        selected = ("--selector", NODES.format(name), "--container", NODE, "--tail", "-1")
        done = run_client(
            [*kubectl, "logs", *selected, "--prefix", "--timestamps"], install=INSTALL
        )
        lines = in_order(done.output)
        new = lines[offset:] if offset <= len(lines) else lines  # the pods were replaced
        return "".join(f"{line}\n" for line in new), len(lines)

    def cancel(self, job_id: str) -> None:
        """Delete the job, whose pods save and end; the claim stays."""
        kubectl, name = kubectl_of(job_id)
        output_of([*kubectl, "delete", "trainjob", name, "--wait=false"], install=INSTALL)


def require_remote_inputs(job: Job, claim: str) -> None:
    """Raise ``InvalidRequestError`` if an input of the plan is on this machine's disk."""
    for name in local_inputs(job):
        raise InvalidRequestError(
            Phrase(
                "{name} is on this machine's disk, which no node of the cluster sees: put it "
                "on the claim {claim} and give the path that a node sees ({home}/...), or a "
                "name on the hub",
                name=name,
                claim=claim,
                home=HOME,
            )
        )


def kubectl_at(context: str, namespace: str) -> tuple[str, ...]:
    """Return kubectl's command for a context and a namespace, which may be empty."""
    where = {"--context": context, "--namespace": namespace}
    return ("kubectl", *(part for item in where.items() if item[1] for part in item))


def kubectl_of(job_id: str) -> tuple[tuple[str, ...], str]:
    """Return kubectl's command for a job id, whose context may have slashes, and the job's name."""
    context, namespace, name = job_id.rsplit("/", 2)
    return kubectl_at(context, namespace), name


def status_of(status: Mapping[str, Any]) -> JobStatus:
    """Return a TrainJob's state: its condition, or without one what its nodes' job does."""
    for condition in status.get("conditions", ()):
        if condition["status"] == "True" and condition["type"] in CONDITIONS:
            words = (condition.get("reason"), condition.get("message"))
            detail = Joined(": ", filter(None, words))
            return JobStatus(state=CONDITIONS[condition["type"]], detail=detail)
    nodes = [row for row in status.get("jobsStatus", ()) if row["name"] == NODE]
    running = any(row.get("ready", 0) for row in nodes)
    return JobStatus(state="running" if running else "waiting")


def exit_code_of(pods: list[dict[str, Any]]) -> int | None:
    """Return the exit code of the first node that failed; None if its pod is gone."""
    ended = [
        container["state"]["terminated"]
        for pod in pods
        for container in pod.get("status", {}).get("containerStatuses", ())
        if container["name"] == NODE and "terminated" in container.get("state", {})
    ]
    failed = [state for state in ended if state["exitCode"] != 0]
    return min(failed, key=lambda state: state["finishedAt"])["exitCode"] if failed else None


def in_order(log: str) -> list[str]:
    """Return the lines of all pods by their times, ``[pod/POD/node] TIME TEXT``, without these."""
    parsed = [line.split(" ", 2) for line in log.splitlines() if line.count(" ") > 1]
    parsed.sort(key=lambda parts: parts[1])
    return [f"{prefix} {text}" for prefix, _, text in parsed]


ENGINE = Kubeflow()
