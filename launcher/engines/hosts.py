"""The engine ``hosts``: the same command by ssh on every host, in the foreground."""

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
from planner.base.phrases import Phrase
from planner.base.strict_yaml import Spec
from planner.base.text_files import read_text

SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=2",
)
"""Options that ask nobody for a password, and take a host for lost that is silent for 30 s."""
_NAME = re.compile(r"[\w.:%][\w.:%-]*")
_SLOTS = re.compile(r"slots=(\d+)")


class HostSettings(Spec):
    """``--with KEY=VALUE`` for hosts."""

    hosts: Annotated[
        str,
        Meta(
            description=str(Phrase("a file with one host per line, or names separated by commas"))
        ),
    ]
    user: Annotated[str, Meta(min_length=1)] | None = None
    """User name on every host; if left out, that of ssh's configuration."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Port of ssh on every host; if left out, that of ssh's configuration."""
    ssh_option: str = ""
    """Options for ssh's ``-o``, separated by spaces."""
    python: str | None = None
    """Path of the interpreter that has tuneplan on the hosts; if left out, this one's."""
    folder: str | None = None
    """Folder to start in on the hosts; if left out, the current one's path."""
    endpoint: str | None = None
    """``HOST[:PORT]`` where the nodes meet, needed if only ssh knows the first host's name."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the list."""

    name: str
    slots: int | None = None
    """Number of its GPUs that a hostfile offers; None if it does not say."""


class Hosts:
    """Hosts that ssh can reach."""

    def is_like_here(self, job: Job) -> bool:
        """Return whether the hosts start in this folder, with this interpreter."""
        return job.settings.keys().isdisjoint({"folder", "python"})

    def render(self, job: Job) -> Rendered:
        """Return one ssh command per host; the list of hosts is read if it is a file."""
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
        """Return a sentence per host that cannot start the run."""
        return host_problems(rendered.commands, folder / PLAN_NAME)

    def run(self, job: Job, rendered: Rendered) -> int:
        """Run the commands on their hosts, and return the training's exit code."""
        return run_on_hosts(rendered.commands, max_restarts=job.start.max_restarts)


def ssh_command(host: Host, remote: str, settings: HostSettings) -> tuple[str, ...]:
    """Return ssh's command; its last two arguments are the host and the remote command."""
    options = (*shlex.split(settings.ssh_option), *SSH_OPTIONS)  # ssh obeys an option's first value
    return (
        "ssh",
        *(part for option in options for part in ("-o", option)),
        *(() if settings.port is None else ("-p", str(settings.port))),
        *(() if settings.user is None else ("-l", settings.user)),
        *(host.name, remote),
    )


def remote_command(first: Host, num_hosts: int, job: Job, settings: HostSettings) -> str:
    """Return the command for the host's shell, quoted."""
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
    """Return the hosts of ``--with hosts``: a file with one per line, or names with commas."""
    path = Path(setting)
    if path.is_file():
        lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
        return [parsed_host(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line]
    if "/" in setting:
        raise InvalidRequestError(
            Phrase(
                "--with hosts={setting}: there is no such file. Write one host per line into "
                "it, or give names separated by commas",
                setting=setting,
            )
        )
    return [parsed_host(name.strip(), "--with hosts") for name in setting.split(",")]


def parsed_host(line: str, place: str) -> Host:
    """Return the host of ``HOST`` or ``HOST slots=GPUS``, as in DeepSpeed's hostfiles.

    ``place`` names the line in the error that is raised for anything else.
    """
    name, *rest = line.split() or [""]
    slots = _SLOTS.fullmatch(" ".join(rest))
    if not _NAME.fullmatch(name) or (rest and slots is None):
        raise InvalidRequestError(
            Phrase(
                "{place}: {line!r} is not a host: write NAME or NAME slots=GPUS; --with "
                "user=NAME holds for all hosts",
                place=place,
                line=line,
            )
        )
    return Host(name, None if slots is None else int(slots[1]))


def check_hosts(hosts: list[Host], job: Job) -> None:
    """Raise ``InvalidRequestError`` if the hosts are not those that the plan needs."""
    parallel = job.plan.parallel
    names = [host.name for host in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequestError(
            Phrase("--with hosts names {name} twice: every host is one node", name=twice[0])
        )
    if len(hosts) != parallel.num_nodes:
        raise InvalidRequestError(
            Phrase(
                "the plan is for {num_nodes} {num_nodes[node|nodes]} and --with hosts names "
                "{number}. Name as many, or plan with --nodes {number}",
                num_nodes=parallel.num_nodes,
                number=len(hosts),
            )
        )
    for host in hosts:
        if host.slots is not None and host.slots < parallel.gpus_per_node:
            raise InvalidRequestError(
                Phrase(
                    "{name} has slots={slots} and the plan has {gpus_per_node} "
                    "{gpus_per_node[rank|ranks]} per node. Plan with fewer, or choose another host",
                    name=host.name,
                    slots=host.slots,
                    gpus_per_node=parallel.gpus_per_node,
                )
            )


ENGINE = Hosts()
