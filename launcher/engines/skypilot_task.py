"""SkyPilot's description of a job. Pure but for the version of tuneplan that it installs."""

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
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.plan.schema import Plan

TASK_NAME = "task.yaml"
PYTHON = "~/tuneplan/bin/python"
SYSTEM_DISK_GIB = 256
"""SkyPilot's own default, for the system and the packages; read: sky/resources.py at 0.14.1."""
IDLE_MINUTES = 10
"""A cluster without a job is taken down after so long."""


class SkySettings(Spec):
    bucket: Annotated[str, Meta(pattern=r"^[a-z0-9]+://.+")] | None = None
    """``s3://NAME`` or another store's, for the run directory: of one node."""
    volume: str | None = None
    """The name of a SkyPilot volume for it, which all nodes share."""
    shared: Annotated[str, Meta(pattern="^/")] | None = None
    """A folder for it that the machines share already."""
    spot: bool = False
    infra: str | None = None
    """``aws/us-east-1``, ``k8s``: where; left out, where it is cheapest."""
    accelerators: Annotated[str, Meta(pattern=r"^[^:\s]+(:\d+)?\Z")] | None = None
    """SkyPilot's ``NAME:COUNT`` for each node, in place of the plan's card."""
    package: str | None = None
    """What pip installs in place of this version of tuneplan."""
    secret: str | None = None
    """Names of environment variables, with commas between: their values are not written."""

    @property
    def secrets(self) -> list[str]:
        return [] if self.secret is None else self.secret.split(",")


class CardNames(Spec):
    """presets/skypilot.yaml."""

    source: dict[str, str]
    accelerators: dict[str, list[str]]


@cache
def card_names() -> Mapping[str, list[str]]:
    return read_spec(CardNames, ROOT / "skypilot.yaml").accelerators


def check_storage(plan: Plan, settings: SkySettings) -> None:
    given = [name for name in ("bucket", "volume", "shared") if getattr(settings, name) is not None]
    if len(given) != 1:
        raise InvalidRequestError(
            "--on skypilot needs a place for the run directory that outlives the machines: give "
            "one of --with bucket=s3://NAME (one node), volume=NAME, shared=/FOLDER"
        )
    if settings.bucket is not None and plan.parallel.num_nodes > 1:
        raise InvalidRequestError(
            f"--with bucket: {plan.parallel.num_nodes} nodes need to see each other's files at "
            "once, which a mounted bucket does not show. Give volume=NAME or shared=/FOLDER"
        )


def run_directory(job: Job, settings: SkySettings) -> str:
    return f"{settings.shared or RUNS}/{job.label}"


def task(job: Job, settings: SkySettings, uploads: Mapping[str, str]) -> dict[str, Any]:
    """SkyPilot's task; ``uploads`` are files and folders here by their place there."""
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
    """Of each node."""
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
        recovery = {"strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": job.max_restarts}
        content |= {"use_spot": True, "job_recovery": recovery}
    return content


def accelerators(plan: Plan, settings: SkySettings) -> str | dict[str, int] | None:
    """One, or any of several names; none for the CPU."""
    count = plan.parallel.gpus_per_node
    if settings.accelerators is not None:
        name, _, given = settings.accelerators.partition(":")
        if given and int(given) != count:
            raise InvalidRequestError(
                f"--with accelerators={settings.accelerators}: the plan has {count} ranks on each "
                f"node. Write {name}:{count}, or plan with other --gpus"
            )
        return f"{name}:{count}"
    if plan.hardware.device == "cpu":
        return None
    names = card_names().get(plan.hardware.gpu)
    if names is None:
        raise InvalidRequestError(
            f"SkyPilot's catalog has no name for the plan's card {plan.hardware.gpu}: give one, "
            f"--with accelerators=NAME:{count} (sky gpus list --all shows them)"
        )
    return f"{names[0]}:{count}" if len(names) == 1 else dict.fromkeys(names, count)


def setup(settings: SkySettings) -> str:
    package = settings.package or f"tuneplan[train]=={version('tuneplan')}"
    return (
        "set -e\n"
        "command -v uv > /dev/null || pip install uv\n"
        "uv venv --python 3.11 --allow-existing ~/tuneplan\n"
        f"uv pip install --python {PYTHON} {shlex.quote(package)}\n"
    )


def run_script(job: Job, settings: SkySettings) -> str:
    """On each node; the first address is the head's, which the nodes meet at."""
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
    named = [part for name in settings.secrets for part in ("--secret", name)]
    if settings.spot:
        return ("sky", "jobs", "launch", "--yes", "--detach-run", *named, TASK_NAME)
    idle = ("--down", "--idle-minutes-to-autostop", str(IDLE_MINUTES))
    cluster = ("--cluster", job.label)
    return ("sky", "launch", "--yes", "--detach-run", *cluster, *idle, *named, TASK_NAME)
