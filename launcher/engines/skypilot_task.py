"""SkyPilot's description of a job. Reads nothing but the version of tuneplan that it installs."""

import shlex
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

from msgspec import Meta

from launcher.engines.job import PLAN_NAME, Job, node_command
from launcher.engines.remote_plan import HOME, RUNS, needed_disk_gib, needed_memory_gib
from launcher.run.rank_commands import PORT
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.plan.schema import Plan

TASK_NAME = "task.yaml"
PYTHON = "~/tuneplan/bin/python"
"""Path of the interpreter that has tuneplan on a machine."""
SYSTEM_DISK_GIB = 256
"""Disk for the system and the packages: SkyPilot's default; read: sky/resources.py at 0.14.1."""
IDLE_MINUTES = 10
"""Minutes after which a cluster without a job is taken down."""


class SkySettings(Spec):
    """``--with KEY=VALUE`` for SkyPilot."""

    bucket: Annotated[str, Meta(pattern=r"^[a-z0-9]+://.+")] | None = None
    """Bucket for the run directory of a run on one node: ``s3://NAME`` or another store's."""
    volume: str | None = None
    """Name of a SkyPilot volume for the run directory, which all nodes share."""
    shared: Annotated[str, Meta(pattern="^/")] | None = None
    """Folder for the run directory that the machines already share."""
    spot: bool = False
    """Whether to use spot machines, through a managed job."""
    infra: str | None = None
    """``aws/us-east-1``, ``k8s``: where to run; if left out, where it is cheapest."""
    accelerators: Annotated[str, Meta(pattern=r"^[^:\s]+(:\d+)?\Z")] | None = None
    """SkyPilot's ``NAME:COUNT`` per node, instead of the plan's card."""
    package: str | None = None
    """Requirement that pip installs, instead of this version of tuneplan."""
    secret: str | None = None
    """Names of environment variables, separated by commas, whose values are not written."""

    @property
    def secrets(self) -> list[str]:
        """Names of the environment variables that are secret."""
        return [] if self.secret is None else self.secret.split(",")


class CardNames(Spec):
    """The content of presets/skypilot.yaml: SkyPilot's names of this project's cards."""

    source: dict[str, str]
    accelerators: dict[str, list[str]]


@cache
def card_names() -> Mapping[str, list[str]]:
    """Return SkyPilot's names by the name of the card's preset."""
    return read_spec(CardNames, ROOT / "skypilot.yaml").accelerators


def check_storage(plan: Plan, settings: SkySettings) -> None:
    """Raise ``InvalidRequestError`` unless one suitable place for the run directory is set."""
    given = [name for name in ("bucket", "volume", "shared") if getattr(settings, name) is not None]
    if len(given) != 1:
        raise InvalidRequestError(
            Phrase(
                "--on skypilot needs a place for the run directory that outlives the "
                "machines: set one of --with bucket=s3://NAME (one node), volume=NAME, "
                "shared=/FOLDER"
            )
        )
    if settings.bucket is not None and plan.parallel.num_nodes > 1:
        raise InvalidRequestError(
            Phrase(
                "--with bucket: {num_nodes} nodes need to see each other's files at once, "
                "which a mounted bucket does not show. Set volume=NAME or shared=/FOLDER",
                num_nodes=plan.parallel.num_nodes,
            )
        )


def run_directory(job: Job, settings: SkySettings) -> str:
    """Return the run directory on the machines."""
    return f"{settings.shared or RUNS}/{job.label}"


def task(job: Job, settings: SkySettings, uploads: Mapping[str, str]) -> dict[str, Any]:
    """Return the task; ``uploads`` are files and folders of this machine by their path there."""
    content: dict[str, Any] = {
        "name": job.label,
        "num_nodes": job.plan.parallel.num_nodes,
        "resources": resources(job, settings),
        "file_mounts": {f"{HOME}/{PLAN_NAME}": f"./{PLAN_NAME}", **uploads},
    }
    if settings.bucket is not None:
        content["file_mounts"][RUNS] = {"source": settings.bucket, "mode": "MOUNT_CACHED"}
    if settings.volume is not None:
        content["volumes"] = {RUNS: settings.volume}
    if settings.secrets:
        content["secrets"] = dict.fromkeys(settings.secrets)
    return {**content, "setup": setup(settings), "run": run_script(job, settings)}


def resources(job: Job, settings: SkySettings) -> dict[str, Any]:
    """Return the memory, disk and GPUs of a node, and where it may be."""
    content: dict[str, Any] = {
        "memory": f"{needed_memory_gib(job.plan)}+",
        "disk_size": SYSTEM_DISK_GIB + needed_disk_gib(job.plan),
    }
    cards = accelerators(job.plan, settings)
    if cards is not None:
        content = {"accelerators": cards, **content}
    if settings.infra is not None:
        content["infra"] = settings.infra
    if settings.spot:
        recovery = {
            "strategy": "EAGER_NEXT_REGION",
            "max_restarts_on_errors": job.start.max_restarts,
        }
        content |= {"use_spot": True, "job_recovery": recovery}
    return content


def accelerators(plan: Plan, settings: SkySettings) -> str | dict[str, int] | None:
    """Return SkyPilot's name and number of a node's cards, or several to choose from.

    Return None for the CPU. Raise ``InvalidRequestError`` if no name is known.
    """
    count = plan.parallel.gpus_per_node
    if settings.accelerators is not None:
        name, _, number = settings.accelerators.partition(":")
        if number and int(number) != count:
            raise InvalidRequestError(
                Phrase(
                    "--with accelerators={accelerators}: the plan has {count} {count[rank|ranks]} "
                    "per node. Write {name}:{count}, or plan with other --gpus",
                    accelerators=settings.accelerators,
                    count=count,
                    name=name,
                )
            )
        return f"{name}:{count}"
    if plan.hardware.device == "cpu":
        return None
    names = card_names().get(plan.hardware.gpu)
    if names is None:
        raise InvalidRequestError(
            Phrase(
                "SkyPilot's name of the plan's card {gpu} is not known: set one, --with "
                "accelerators=NAME:{count} (sky gpus list --all shows them)",
                gpu=plan.hardware.gpu,
                count=count,
            )
        )
    return f"{names[0]}:{count}" if len(names) == 1 else dict.fromkeys(names, count)


def setup(settings: SkySettings) -> str:
    """Return the script that installs tuneplan on a machine."""
    package = settings.package or f"tuneplan[train]=={version('tuneplan')}"
    return (
        "set -e\n"
        "command -v uv > /dev/null || pip install uv\n"
        "uv venv --python 3.11 --allow-existing ~/tuneplan\n"
        f"uv pip install --python {PYTHON} {shlex.quote(package)}\n"
    )


def run_script(job: Job, settings: SkySettings) -> str:
    """Return the script of a node; the nodes meet at the first address, which is the head's."""
    command = node_command(
        job,
        plan_file=f"{HOME}/{PLAN_NAME}",
        directory=run_directory(job, settings),
        python="PYTHON",
    )
    line = f"exec {PYTHON} {shlex.join(command[1:])}"
    if job.plan.parallel.num_nodes == 1:
        return f"{line}\n"
    head = 'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n'
    return f'{head}{line} --rdzv-endpoint "$head:{PORT}"\n'


def launch_command(job: Job, settings: SkySettings) -> tuple[str, ...]:
    """Return the command that submits the task, as a managed job on spot machines."""
    named = [part for name in settings.secrets for part in ("--secret", name)]
    if settings.spot:
        return ("sky", "jobs", "launch", "--yes", "--detach-run", *named, TASK_NAME)
    idle = ("--down", "--idle-minutes-to-autostop", str(IDLE_MINUTES))
    cluster = ("--cluster", job.label)
    return ("sky", "launch", "--yes", "--detach-run", *cluster, *idle, *named, TASK_NAME)
