"""A plan as a job: what each engine renders its own description from. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from planner.plan.schema import Plan

PLAN_NAME = "plan.yaml"
LABEL_WORDS = 24
LABEL_DIGITS = 6
"""With both a label is short enough for what Kubernetes adds to it (63 in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    plan: Plan
    directory: Path
    """Of the run, absolute: every node of an engine with shared storage sees it there."""
    python: str
    """The interpreter of this process, where the nodes share its disk."""
    resume: bool = False
    max_restarts: int = 0
    working_directory: Path = field(default_factory=Path.cwd)
    """Where ``launch`` was called: relative paths of the plan begin there."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """``--with KEY=VALUE``, not read yet: each engine has its own keys."""

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def label(self) -> str:
        """A name that engines take: a DNS label (RFC 1035), the same for the same directory."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        digest = sha256(str(self.directory).encode()).hexdigest()[:LABEL_DIGITS]
        return "-".join(filter(None, ("tuneplan", words[:LABEL_WORDS].strip("-"), digest)))

    @property
    def folder(self) -> Path:
        """Where the rendered files go."""
        return self.directory / "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What would be submitted, to read and to copy."""

    files: Mapping[str, str]
    """By name, in the job's folder."""
    commands: tuple[tuple[str, ...], ...]
    """Which submit it, run in the job's folder."""


def node_command(
    job: Job,
    *,
    plan_file: str,
    directory: str,
    python: str | None = None,
    module: str = "launcher",
) -> list[str]:
    """The same on every node, but for ``--rdzv-endpoint HOST:PORT``, which the engine adds.

    A job that its engine starts again goes on by itself.
    """
    return [
        *(python or job.python, "-m", module, plan_file),
        *("--output", directory, "--max-restarts", str(job.max_restarts)),
        "--resume" if job.resume else "--begin-or-resume",
    ]
