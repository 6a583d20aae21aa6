"""A plan as a job, from which every engine renders its description. No side effects."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from launcher.lifecycle.begin import StartOptions
from planner.base.python_children import module_command
from planner.plan.schema import Plan

PLAN_NAME = "plan.yaml"
"""Name of the plan's file in the job's folder."""
LABEL_WORDS = 24
LABEL_DIGITS = 6
"""Lengths of a label's parts, which leave room for what Kubernetes adds: 63 characters in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A plan with what an engine needs to run it."""

    plan: Plan
    directory: Path
    """Absolute path of the run directory, also on the nodes of an engine with shared storage."""
    python: str
    """Path of this process's interpreter, for nodes that share its disk."""
    start: StartOptions = field(default_factory=StartOptions)
    """The options that say how the run begins on each node."""
    working_directory: Path = field(default_factory=Path.cwd)
    """Folder in which ``launch`` was called: relative paths of the plan begin there."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Keys and values of ``--with``, as text: every engine has keys of its own."""

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return self.directory.name

    @property
    def label(self) -> str:
        """A name that all engines accept, a DNS label (RFC 1035); it follows from the directory."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        digest = sha256(str(self.directory).encode()).hexdigest()[:LABEL_DIGITS]
        return "-".join(filter(None, ("tuneplan", words[:LABEL_WORDS].strip("-"), digest)))

    @property
    def folder(self) -> Path:
        """The folder of the rendered files."""
        return self.directory / "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A job as an engine is given it, also for people to read and to copy."""

    files: Mapping[str, str]
    """Texts by the name of their file in the job's folder."""
    commands: tuple[tuple[str, ...], ...]
    """Commands that submit it, to run in the job's folder."""


def node_command(
    job: Job,
    *,
    plan_file: str,
    directory: str,
    python: str | None = None,
    module: str = "launcher",
) -> list[str]:
    """Return ``launch``'s command, which is the same on every node.

    The engine adds ``--rdzv-endpoint HOST:PORT`` for several nodes. A job that its engine starts
    again resumes by itself, unless its run has to be resumed in the first place.
    """
    start = job.start
    return [
        *module_command(module, python=python or job.python),
        plan_file,
        *("--output", directory, "--max-restarts", str(start.max_restarts)),
        "--resume" if start.resume else "--begin-or-resume",
        *(["--record"] if start.record else []),
        *([] if start.shown_samples == 1 else ["--show-sample", str(start.shown_samples)]),
    ]
