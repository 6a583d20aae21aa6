"""The TrainJob of a plan, with its claim and its ConfigMap. Reads nothing but tuneplan's version.

The runtime gives every container the address where the nodes meet: PET_MASTER_ADDR is the first
node's name in the job's headless service, PET_MASTER_PORT a port of it (read: kubeflow/trainer,
pkg/runtime/framework/plugins/torch/torch.go at 06b555d6). launch gives torch all options, which
overrule the other PET_ variables.
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
"""Folder of the plan in a container."""
NODE = "node"
"""Name of the replicated job and its container in every runtime; read: kubeflow 0.5.0,
constants.NODE."""
GPU = "nvidia.com/gpu"
MANAGER = "tuneplan"
"""Name that tuneplan signs its objects and patches with."""
NAME_SECONDS = 600
"""Seconds for the first node's name to be known."""
AWAIT_NAME = (
    f"timeout {NAME_SECONDS} bash -c "
    "'until getent hosts \"$PET_MASTER_ADDR\" > /dev/null; do sleep 2; done'\n"
)
"""Line of a script that waits for the first node's name, known once its pod has an address."""
SHARED_MEMORY = "/dev/shm"
"""Folder of shared memory, of which a container has 64 MiB by default: NCCL needs more."""


class KubeflowSettings(Spec):
    """``--with KEY=VALUE`` for Kubeflow."""

    image: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    """A container image that has tuneplan; if left out, pip installs it in the runtime's image."""
    runtime: Annotated[str, Meta(min_length=1, max_length=253)] = "torch-distributed"
    """Training runtime of the cluster."""
    namespace: str | None = None
    """Namespace of the job; if left out, that of the context."""
    context: str | None = None
    """Context of kubectl's configuration; if left out, its current one."""
    claim: str | None = None
    """An existing claim of a volume that all nodes can mount; if left out, one is made."""
    storage_class: str | None = None
    """Storage class of the claim that is made; if left out, the default one of the cluster."""
    size: Annotated[str, Meta(pattern=r"^\d+(Mi|Gi|Ti)\Z")] | None = None
    """Size of the claim that is made, instead of what the plan needs."""
    secret: str | None = None
    """Name of a Secret with the hub's token under the key HF_TOKEN."""
    node_selector: Annotated[str, Meta(pattern=r"^[^=]+=[^=]*\Z")] | None = None
    """``LABEL=VALUE`` that the nodes to run on have."""


def run_directory(job: Job) -> str:
    """Return the run directory in a container."""
    return f"{RUNS}/{job.label}"


def claim_name(job: Job, settings: KubeflowSettings) -> str:
    """Return the name of the claim that the run uses."""
    return settings.claim or job.label


def lasting(job: Job, plan_yaml: str, settings: KubeflowSettings) -> list[dict[str, Any]]:
    """Return the objects that outlive a job: the plan, and the claim unless there is one."""
    config = {**head("v1", "ConfigMap", named(job), settings), "data": {PLAN_NAME: plan_yaml}}
    return [config] if settings.claim is not None else [claim(job, settings), config]


def named(job: Job) -> dict[str, str]:
    """Return the metadata that names an object of a job."""
    return {"name": job.label}


def head(
    api_version: str, kind: str, name: dict[str, str], settings: KubeflowSettings
) -> dict[str, Any]:
    """Return the first keys of a Kubernetes object."""
    namespace = {} if settings.namespace is None else {"namespace": settings.namespace}
    labels = {"app.kubernetes.io/managed-by": MANAGER}
    metadata = {**name, **namespace, "labels": labels}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def claim(job: Job, settings: KubeflowSettings) -> dict[str, Any]:
    """Return the claim of a volume for the run directory, the model and the tokenized data."""
    several = job.plan.parallel.num_nodes > 1
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany" if several else "ReadWriteOnce"],
        "resources": {"requests": {"storage": settings.size or f"{needed_disk_gib(job.plan)}Gi"}},
    }
    if settings.storage_class is not None:
        spec["storageClassName"] = settings.storage_class
    return {**head("v1", "PersistentVolumeClaim", named(job), settings), "spec": spec}


def train_job(job: Job, settings: KubeflowSettings) -> dict[str, Any]:
    """Return the TrainJob. The cluster completes its name, because it cannot be started again."""
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
    """Return the script of a node; it execs launch, so that a pod's SIGTERM makes it save."""
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
    """Return the container's variables: caches are on the claim, so the model is fetched once."""
    caches = {"HF_HOME": f"{HOME}/huggingface", "XDG_CACHE_HOME": f"{HOME}/cache"}
    given: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in caches.items()]
    if settings.secret is not None:
        reference = {"secretKeyRef": {"name": settings.secret, "key": "HF_TOKEN"}}
        given.append({"name": "HF_TOKEN", "valueFrom": reference})
    return given


def resources(job: Job) -> dict[str, Any]:
    """Return the memory and GPUs of a node."""
    memory = {"memory": f"{needed_memory_gib(job.plan)}Gi"}
    if job.plan.hardware.device == "cpu":
        return {"requests": memory}
    cards = {GPU: job.plan.parallel.gpus_per_node}
    return {"requests": {**memory, **cards}, "limits": cards}


def pod(job: Job, settings: KubeflowSettings) -> dict[str, Any]:
    """Return the patch of a pod: the volumes that it mounts, and the nodes that it may run on."""
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
