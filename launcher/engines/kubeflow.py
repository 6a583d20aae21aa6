"""A Kubernetes cluster with Kubeflow Trainer, through kubectl."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.engines.client_command import answer, attempt, reason
from launcher.engines.engine import Look, State
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
from launcher.engines.remote_plan import HOME, inputs_here, plan_away
from launcher.engines.settings import read_settings
from launcher.run.read_plan import plan_text
from planner.base.errors import InvalidRequestError

LASTING = "claim-and-plan.yaml"
TRAIN_JOB = "trainjob.yaml"
INSTALL = "apt-get install kubernetes-client, or kubectl as Kubernetes has it"
CONDITIONS: dict[str, State] = {
    "Failed": "failed",
    "Complete": "finished",
    "Suspended": "waiting",
}
"""Of a TrainJob, the ones that end it first; read: kubeflow/trainer,
pkg/apis/trainer/v1alpha1/trainjob_types.go at 0015772c."""
NODES = "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/replicatedjob-name=" + NODE
"""read: kubeflow 0.5.0, trainer/constants/constants.py, POD_LABEL_SELECTOR."""


class Kubeflow:
    def render(self, job: Job) -> Rendered:
        """Looks whether an input of the plan is on this machine's disk."""
        settings = read_settings(KubeflowSettings, "kubeflow", job.settings)
        refuse_inputs_here(job, claim_name(job, settings))
        plan = plan_text(plan_away(job.plan, {}, run_directory(job)))
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
        """What the cluster itself would refuse; it keeps nothing of it."""
        tried = [
            attempt([*command, "--dry-run=server"], install=INSTALL, folder=folder)
            for command in rendered.commands
        ]
        return [reason(done) for done in tried if done.returncode != 0]

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """``CONTEXT/NAMESPACE/NAME``, the first empty for kubectl's own."""
        applying, creating = rendered.commands
        answer(applying, install=INSTALL, folder=folder)
        created = json.loads(answer(creating, install=INSTALL, folder=folder))["metadata"]
        context = creating[creating.index("--context") + 1] if "--context" in creating else ""
        return f"{context}/{created['namespace']}/{created['name']}"

    def look(self, job_id: str) -> Look:
        kubectl, name = kubectl_of(job_id)
        asked = [*kubectl, "get", "trainjob", name, "--ignore-not-found", "--output", "json"]
        found = answer(asked, install=INSTALL)
        if not found.strip():
            return Look(state="cancelled", detail="deleted")
        ended = look_of(json.loads(found).get("status", {}))
        if ended.state != "failed":
            return ended
        pods = [*kubectl, "get", "pods", "--selector", NODES.format(name), "--output", "json"]
        items = json.loads(answer(pods, install=INSTALL))["items"]
        return Look(state=ended.state, detail=ended.detail, exit_code=exit_code_of(items))

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """All nodes' lines in the order of their times; ``offset`` counts lines."""
        kubectl, name = kubectl_of(job_id)
        selected = ("--selector", NODES.format(name), "--container", NODE, "--tail", "-1")
        done = attempt([*kubectl, "logs", *selected, "--prefix", "--timestamps"], install=INSTALL)
        lines = in_order(done.stdout)
        new = lines[offset:] if offset <= len(lines) else lines  # pods that were made anew
        return "".join(f"{line}\n" for line in new), len(lines)

    def cancel(self, job_id: str) -> None:
        """Its pods are told to end, and save; the claim stays."""
        kubectl, name = kubectl_of(job_id)
        answer([*kubectl, "delete", "trainjob", name, "--wait=false"], install=INSTALL)


def refuse_inputs_here(job: Job, claim: str) -> None:
    for name in inputs_here(job):
        raise InvalidRequestError(
            f"{name} is on this machine's disk, which no node of the cluster sees: put it on the "
            f"claim {claim} and name it as a node sees it ({HOME}/...), or name one of the hub"
        )


def kubectl_at(context: str, namespace: str) -> tuple[str, ...]:
    where = {"--context": context, "--namespace": namespace}
    return ("kubectl", *(part for item in where.items() if item[1] for part in item))


def kubectl_of(job_id: str) -> tuple[tuple[str, ...], str]:
    """With which kubectl a job is found, and its name there; a context may hold slashes."""
    context, namespace, name = job_id.rsplit("/", 2)
    return kubectl_at(context, namespace), name


def look_of(status: Mapping[str, Any]) -> Look:
    """A TrainJob's status; without a condition the state is what its nodes' job does."""
    for condition in status.get("conditions", ()):
        if condition["status"] == "True" and condition["type"] in CONDITIONS:
            told = (condition.get("reason"), condition.get("message"))
            detail = ": ".join(filter(None, told))
            return Look(state=CONDITIONS[condition["type"]], detail=detail)
    nodes = [row for row in status.get("jobsStatus", ()) if row["name"] == NODE]
    running = any(row.get("ready", 0) for row in nodes)
    return Look(state="running" if running else "waiting")


def exit_code_of(pods: list[dict[str, Any]]) -> int | None:
    """The first failure's, where a pod of it is still there."""
    ended = [
        container["state"]["terminated"]
        for pod in pods
        for container in pod.get("status", {}).get("containerStatuses", ())
        if container["name"] == NODE and "terminated" in container.get("state", {})
    ]
    failed = [state for state in ended if state["exitCode"] != 0]
    return min(failed, key=lambda state: state["finishedAt"])["exitCode"] if failed else None


def in_order(log: str) -> list[str]:
    """``[pod/POD/node] TIME TEXT`` of every pod, one after another in ``log``, by their times."""
    parsed = [line.split(" ", 2) for line in log.splitlines() if line.count(" ") > 1]
    parsed.sort(key=lambda parts: parts[1])
    return [f"{prefix} {text}" for prefix, _, text in parsed]


ENGINE = Kubeflow()
