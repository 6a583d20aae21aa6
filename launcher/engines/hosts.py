"""Hosts that ssh reaches: the same command on each, in the foreground."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from launcher.engines.hosts_check import host_problems
from launcher.engines.hosts_run import run_on_hosts
from launcher.engines.job import PLAN_NAME, Job, Rendered, node_command
from launcher.engines.settings import read_settings
from launcher.run.rank_commands import PORT
from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import Spec, read_text

SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=2",
)
"""Nobody is asked for a password, and a host that is silent for 30 s is lost."""
_NAME = re.compile(r"[\w.:%][\w.:%-]*")
_SLOTS = re.compile(r"slots=(\d+)")


class HostSettings(Spec):
    hosts: Annotated[
        str, Meta(description="a file with a host a line, or names with commas between")
    ]
    user: Annotated[str, Meta(min_length=1)] | None = None
    """At every host; left out, what ssh's own configuration says."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    ssh_option: str = ""
    """ssh's own ``-o``, several with spaces between."""
    python: str | None = None
    """The interpreter that has tuneplan at the hosts; left out, this one's path."""
    folder: str | None = None
    """To start in at the hosts; left out, this one's path."""
    endpoint: str | None = None
    """``HOST[:PORT]`` where the nodes meet, if the first host's name is known to ssh alone."""


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    slots: int | None = None
    """How many GPUs of it a hostfile gives away."""


class Hosts:
    def render(self, job: Job) -> Rendered:
        """Reads the host list, if it is a file."""
        settings = read_settings(HostSettings, "hosts", job.settings)
        hosts = listed_hosts(settings.hosts)
        check_hosts(hosts, job)
        return Rendered(
            files={},
            commands=tuple(
                ssh_command(host, remote_command(hosts[0], len(hosts), job, settings), settings)
                for host in hosts
            ),
        )

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        return host_problems(rendered.commands, folder / PLAN_NAME)

    def run(self, job: Job, rendered: Rendered) -> int:
        return run_on_hosts(rendered.commands, max_restarts=job.max_restarts)


def ssh_command(host: Host, remote: str, settings: HostSettings) -> tuple[str, ...]:
    """An argument list, whose last two are the host and what its shell is given."""
    options = (*shlex.split(settings.ssh_option), *SSH_OPTIONS)  # ssh takes each one's first
    return (
        "ssh",
        *(part for option in options for part in ("-o", option)),
        *(() if settings.port is None else ("-p", str(settings.port))),
        *(() if settings.user is None else ("-l", settings.user)),
        *(host.name, remote),
    )


def remote_command(first: Host, num_hosts: int, job: Job, settings: HostSettings) -> str:
    """For a shell, the one place where something is quoted."""
    command = node_command(
        job,
        plan_file=str(job.folder / PLAN_NAME),
        directory=str(job.directory),
        python=settings.python,
        module="launcher.cli.at_host",
    )
    if num_hosts > 1:
        command += ["--rdzv-endpoint", settings.endpoint or f"{first.name}:{PORT}"]
    folder = settings.folder or str(job.working_directory)
    return f"cd {shlex.quote(folder)} && exec {shlex.join(command)}"


def listed_hosts(setting: str) -> list[Host]:
    path = Path(setting)
    if path.is_file():
        lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
        return [parsed_host(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line]
    if "/" in setting:
        raise InvalidRequestError(
            f"--with hosts={setting}: there is no such file. Write one with a host a line, "
            "or name the hosts with commas between"
        )
    return [parsed_host(name.strip(), "--with hosts") for name in setting.split(",")]


def parsed_host(line: str, place: str) -> Host:
    """``HOST`` or, as in a hostfile of DeepSpeed's, ``HOST slots=GPUS``."""
    name, *rest = line.split() or [""]
    slots = _SLOTS.fullmatch(" ".join(rest))
    if not _NAME.fullmatch(name) or (rest and slots is None):
        raise InvalidRequestError(
            f"{place}: {line!r} is no host: write NAME or NAME slots=GPUS; "
            "--with user=NAME is for all of them"
        )
    return Host(name, None if slots is None else int(slots[1]))


def check_hosts(hosts: list[Host], job: Job) -> None:
    parallel = job.plan.parallel
    names = [host.name for host in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequestError(f"--with hosts names {twice[0]} twice: a host is one node")
    if len(hosts) != parallel.num_nodes:
        raise InvalidRequestError(
            f"the plan is for {parallel.num_nodes} nodes and --with hosts names {len(hosts)}. "
            f"Name as many, or plan with --nodes {len(hosts)}"
        )
    for host in hosts:
        if host.slots is not None and host.slots < parallel.gpus_per_node:
            raise InvalidRequestError(
                f"{host.name} has slots={host.slots} and the plan {parallel.gpus_per_node} ranks "
                "on each node. Plan with fewer, or take another host"
            )


ENGINE = Hosts()
