"""A TrainJob of Kubeflow Trainer's, with its claim and its plan. Pure but for tuneplan's version.

The runtime gives each container where the nodes meet: PET_MASTER_ADDR is the first one's name in
the job's headless service, PET_MASTER_PORT a port of it (read: kubeflow/trainer,
pkg/runtime/framework/plugins/torch/torch.go at 06b555d6). torch's own options, which launch gives
all of, overrule the other PET_ variables.
"""

import shlex
from importlib.metadata import version
from typing import Annotated, Any

from msgspec import Meta

from launcher.engines.job import PLAN_NAME, Job, node_command
from launcher.engines.remote_plan import HOME, RUNS, needed_disk_gib, needed_memory_gib
from planner.base.strict_yaml import Spec

API_VERSION = "trainer.kubeflow.org/v1alpha1"
PLAN_FOLDER = "/etc/tuneplan"
NODE = "node"
"""The replicated job and its container in every runtime; kubeflow 0.5.0, constants.NODE."""
GPU = "nvidia.com/gpu"
MANAGER = "tuneplan"
NAME_SECONDS = 600
AWAIT_NAME = (
    f"timeout {NAME_SECONDS} bash -c "
    "'until getent hosts \"$PET_MASTER_ADDR\" > /dev/null; do sleep 2; done'\n"
)
"""The first node's name is known once its pod has an address."""
SHARED_MEMORY = "/dev/shm"
"""A container has 64 MiB of it otherwise, and NCCL and data loaders want more."""


class KubeflowSettings(Spec):
    image: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    """A container image that has tuneplan; left out, the runtime's, and pip installs it there."""
    runtime: Annotated[str, Meta(min_length=1, max_length=253)] = "torch-distributed"
    namespace: str | None = None
    context: str | None = None
    """kubectl's."""
    claim: str | None = None
    """An existing claim of a volume that all nodes can mount; left out, one is made."""
    storage_class: str | None = None
    size: Annotated[str, Meta(pattern=r"^\d+(Mi|Gi|Ti)\Z")] | None = None
    """Of the claim that is made, in place of what the plan needs."""
    secret: str | None = None
    """A Secret whose key HF_TOKEN is the hub's."""
    node_selector: Annotated[str, Meta(pattern=r"^[^=]+=[^=]*\Z")] | None = None
    """``LABEL=VALUE`` of the nodes to run on."""


def run_directory(job: Job) -> str:
    return f"{RUNS}/{job.label}"


def claim_name(job: Job, settings: KubeflowSettings) -> str:
    return settings.claim or job.label


def lasting(job: Job, plan_yaml: str, settings: KubeflowSettings) -> list[dict[str, Any]]:
    """What one job of a run leaves for the next: the claim, unless there is one, and the plan."""
    config = {**head("v1", "ConfigMap", named(job), settings), "data": {PLAN_NAME: plan_yaml}}
    return [config] if settings.claim is not None else [claim(job, settings), config]


def named(job: Job) -> dict[str, str]:
    return {"name": job.label}


def head(
    api_version: str, kind: str, name: dict[str, str], settings: KubeflowSettings
) -> dict[str, Any]:
    namespace = {} if settings.namespace is None else {"namespace": settings.namespace}
    labels = {"app.kubernetes.io/managed-by": MANAGER}
    metadata = {**name, **namespace, "labels": labels}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def claim(job: Job, settings: KubeflowSettings) -> dict[str, Any]:
    """For the run directory, the model and the tokenized data."""
    several = job.plan.parallel.num_nodes > 1
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany" if several else "ReadWriteOnce"],
        "resources": {"requests": {"storage": settings.size or f"{needed_disk_gib(job.plan)}Gi"}},
    }
    if settings.storage_class is not None:
        spec["storageClassName"] = settings.storage_class
    return {**head("v1", "PersistentVolumeClaim", named(job), settings), "spec": spec}


def train_job(job: Job, settings: KubeflowSettings) -> dict[str, Any]:
    """Its name is completed by the cluster: a TrainJob cannot be changed or started again."""
    trainer = {
        **({} if settings.image is None else {"image": settings.image}),
        "command": ["bash", "-c"],
        "args": [script(job, settings)],
        "env": environment(settings),
        "numNodes": job.plan.parallel.num_nodes,
        "numProcPerNode": job.plan.parallel.gpus_per_node,
        "resourcesPerNode": resources(job),
    }
    replicated = {"name": NODE, "template": {"spec": {"template": {"spec": pod(job, settings)}}}}
    patch = {
        "manager": MANAGER,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
    }
    return {
        **head(API_VERSION, "TrainJob", {"generateName": f"{job.label}-"}, settings),
        "spec": {
            "runtimeRef": {"name": settings.runtime},
            "trainer": trainer,
            "runtimePatches": [patch],
        },
    }


def script(job: Job, settings: KubeflowSettings) -> str:
    """``exec``: the signal before a pod is ended has to reach launch, which then saves."""
    command = node_command(
        job,
        plan_file=f"{PLAN_FOLDER}/{PLAN_NAME}",
        directory=run_directory(job),
        python="python",
    )
    package = shlex.quote(f"tuneplan[train]=={version('tuneplan')}")
    install = "" if settings.image is not None else f"pip install {package}\n"
    if job.plan.parallel.num_nodes == 1:
        return f"set -e\n{install}exec {shlex.join(command)}\n"
    endpoint = '--rdzv-endpoint "$PET_MASTER_ADDR:$PET_MASTER_PORT"'
    return f"set -e\n{install}{AWAIT_NAME}exec {shlex.join(command)} {endpoint}\n"


def environment(settings: KubeflowSettings) -> list[dict[str, Any]]:
    """The model is fetched once, onto the claim."""
    caches = {"HF_HOME": f"{HOME}/huggingface", "XDG_CACHE_HOME": f"{HOME}/cache"}
    given: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in caches.items()]
    if settings.secret is not None:
        reference = {"secretKeyRef": {"name": settings.secret, "key": "HF_TOKEN"}}
        given.append({"name": "HF_TOKEN", "valueFrom": reference})
    return given


def resources(job: Job) -> dict[str, Any]:
    memory = {"memory": f"{needed_memory_gib(job.plan)}Gi"}
    if job.plan.hardware.device == "cpu":
        return {"requests": memory}
    cards = {GPU: job.plan.parallel.gpus_per_node}
    return {"requests": {**memory, **cards}, "limits": cards}


def pod(job: Job, settings: KubeflowSettings) -> dict[str, Any]:
    mounts = {"runs": HOME, "plan": PLAN_FOLDER, "shared-memory": SHARED_MEMORY}
    volumes = [
        {"name": "runs", "persistentVolumeClaim": {"claimName": claim_name(job, settings)}},
        {"name": "plan", "configMap": {"name": job.label}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    mounted = [{"name": name, "mountPath": path} for name, path in mounts.items()]
    content: dict[str, Any] = {
        "containers": [{"name": NODE, "volumeMounts": mounted}],
        "volumes": volumes,
    }
    if settings.node_selector is not None:
        label, _, value = settings.node_selector.partition("=")
        content["nodeSelector"] = {label: value}
    return content
