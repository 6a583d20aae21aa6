"""What an engine must be able to do. Rendering is pure; all else asks the engine's tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from launcher.engines.job import Job, Rendered
from planner.base.errors import UserError
from planner.base.phrases import Phrase

JobState = Literal["waiting", "running", "finished", "failed", "cancelled", "unknown"]
STATE_TITLES: dict[JobState, str] = {
    "waiting": Phrase("waiting"),
    "running": Phrase("running"),
    "finished": Phrase("finished"),
    "failed": Phrase("failed"),
    "cancelled": Phrase("cancelled"),
    "unknown": Phrase("unknown"),
}
FINAL_STATES: tuple[JobState, ...] = ("finished", "failed", "cancelled")
"""States of a job that has ended."""
EngineName = Literal["local", "hosts", "slurm", "skypilot", "kubeflow"]
ELSEWHERE: tuple[EngineName, ...] = tuple(name for name in get_args(EngineName) if name != "local")
"""Engines that have a module here; ``local`` has none."""


class EngineError(UserError):
    """An engine, or a tool of it, that refuses or is missing; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The state of a job at one moment."""

    state: JobState
    detail: str = ""
    """The engine's own words: why the job waits, where it runs, how it failed."""
    exit_code: int | None = None
    """Exit code of the training, once it has ended and is known."""


class Renderer(Protocol):
    """An object that describes a job for an engine, and checks the description."""

    def is_like_here(self, job: Job) -> bool:
        """Return whether the nodes have this machine's files and packages under the same paths."""

    def render(self, job: Job) -> Rendered:
        """Return the job's description; raise ``InvalidRequestError`` for unknown settings."""

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        """Return a sentence per objection of the engine's tools, before anything is submitted."""


@runtime_checkable
class Engine(Renderer, Protocol):
    """An engine that takes jobs, which outlive ``launch`` and are found again by their id."""

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """Submit a job from its folder, and return its id at the engine."""

    def status(self, job_id: str) -> JobStatus:
        """Return the job's state; raise ``EngineError`` if the engine does not know the job."""

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """Return what the job has printed since ``offset``, and the offset for the next call.

        The first call's offset is 0.
        """

    def cancel(self, job_id: str) -> None:
        """Ask the job to stop; a run that trains saves a checkpoint first."""


@runtime_checkable
class Foreground(Renderer, Protocol):
    """An engine without jobs: what it starts lives as long as ``launch`` does."""

    def run(self, job: Job, rendered: Rendered) -> int:
        """Run the job to its end on all nodes, and return the training's exit code."""


def engine_named(name: EngineName) -> Engine | Foreground:
    """Return an engine; its module is imported now, because others may lack its tools."""
    from importlib import import_module

    engine: Engine | Foreground = import_module(f"launcher.engines.{name}").ENGINE
    return engine
