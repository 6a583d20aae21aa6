"""What an engine must be able to do. Rendering is pure; the rest asks its tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from launcher.engines.job import Job, Rendered
from planner.base.errors import UserError

State = Literal["waiting", "running", "finished", "failed", "cancelled", "unknown"]
ENDED: tuple[State, ...] = ("finished", "failed", "cancelled")
EngineName = Literal["local", "hosts", "slurm", "skypilot", "kubeflow"]
ELSEWHERE: tuple[EngineName, ...] = tuple(name for name in get_args(EngineName) if name != "local")
"""Engines that have a module here; ``local`` has none."""


class EngineError(UserError):
    """The engine, or a tool of it, refuses or is not there: what it said, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A job at one moment."""

    state: State
    detail: str = ""
    """In the engine's own words: a reason to wait, nodes, how it failed."""
    exit_code: int | None = None
    """Of the training, once it has ended."""


class Renderer(Protocol):
    def render(self, job: Job) -> Rendered:
        """Pure. Raises ``InvalidRequestError`` for settings that it does not know."""

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        """What the engine's own tools object to, a sentence each, before anything is submitted."""


@runtime_checkable
class Engine(Renderer, Protocol):
    """Takes jobs: they go on when ``launch`` is gone, and are found again by name."""

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """The job's name at the engine."""

    def look(self, job_id: str) -> Look: ...

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """What the job has printed since ``offset`` (of an earlier call, 0 at first), and the
        next offset."""

    def cancel(self, job_id: str) -> None: ...


@runtime_checkable
class Foreground(Renderer, Protocol):
    """Takes none: what it starts lives as long as ``launch`` does."""

    def run(self, job: Job, rendered: Rendered) -> int:
        """The training's exit code, once it has ended everywhere."""


def engine_named(name: EngineName) -> Engine | Foreground:
    """Imported by name: each asks for tools that others do without."""
    from importlib import import_module

    engine: Engine | Foreground = import_module(f"launcher.engines.{name}").ENGINE
    return engine
