"""The folder that one run writes to: where each file is, and whether it may be written."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.base.units import format_gib
from planner.plan.schema import Plan

_PROBE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class RunDirectory:
    path: Path
    node: str | None = None
    """Of several nodes that share the folder, the address of the one that looks at it."""

    @property
    def plan(self) -> Path:
        return self.path / "plan.yaml"

    @property
    def deepspeed(self) -> Path:
        return self.path / "deepspeed.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def inputs(self) -> Path:
        """What was prepared: where checkpoint and tokenized data are, and the size of the data.

        Nodes may have them in different places, so each of several has its own.
        """
        return (
            self.path / "inputs.json"
            if self.node is None
            else self.nodes / self.node / "inputs.json"
        )

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """A line an evaluation: its loss, and what the model answered."""
        return self.path / "evaluation.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def job(self) -> Path:
        """Which engine has the run as a job, and the job's name there."""
        return self.path / "job" / "job.json"

    @property
    def attempts(self) -> Path:
        """Each start of the ranks: its layout, where it went on from, how it ended."""
        return self.path / "attempts.json"

    @property
    def ranks(self) -> Path:
        """Where each rank is, and what ended it."""
        return self.path / ".ranks"

    def rank_place(self, rank: int) -> Path:
        return self.ranks / f"rank-{rank}.json"

    @property
    def stop(self) -> Path:
        """While it is there, ranks stop after the step they are in."""
        return self.path / ".stop"

    @property
    def report(self) -> Path:
        """Written last: a run with a report is a finished one."""
        return self.path / "report.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def launcher_log(self) -> Path:
        return self.node_log("launcher")

    @property
    def preparation_log(self) -> Path:
        return self.node_log("prepare")

    def node_log(self, name: str) -> Path:
        return self.logs / (f"{name}.log" if self.node is None else f"{name}-{self.node}.log")

    @property
    def lock(self) -> Path:
        """Made first and left there: it marks the folder as a run's own."""
        return self.path / ".lock"

    @property
    def nodes(self) -> Path:
        """What each of several nodes says of itself."""
        return self.path / ".nodes"

    @property
    def launch_lock(self) -> Path:
        """Held by a launch while it runs: one in the folder, or one on each of several nodes."""
        return self.lock if self.node is None else self.nodes / self.node / "lock"

    def rank_log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.log"

    def result(self, plan: Plan) -> Path:
        """The trained adapter, or the trained model."""
        return self.path / ("model" if plan.adapter is None else "adapter")


def check_may_run_in(path: Path) -> None:
    """Refuse a folder whose content a run would mix with or replace."""
    run = RunDirectory(path)
    if run.report.exists():
        raise InvalidRequestError(
            f"{path} already holds a finished run. "
            "Choose another place with --output DIR, or move that one away."
        )
    if path.exists() and not path.is_dir():
        raise InvalidRequestError(f"{path} is a file. Choose a folder with --output DIR.")
    if path.is_dir() and any(path.iterdir()) and not run.lock.exists():
        raise InvalidRequestError(
            f"{path} is not empty and holds no run. Choose another place with --output DIR."
        )


def create(path: Path, *, needed_bytes: int, node: str | None = None) -> RunDirectory:
    """Make the folder and prove that it can be written, before anything expensive starts."""
    run = RunDirectory(path, node)
    probe = path / ".probe" if node is None else path / f".probe-{node}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        run.lock.touch()
        run.logs.mkdir(exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"\0" * _PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
        free_bytes = shutil.disk_usage(path).free
    except OSError as error:
        if probe.is_file():
            probe.unlink()
        reason = error.strerror or str(error)
        raise InvalidRequestError(
            f"cannot write {path}: {reason}. Choose another place with --output DIR."
        ) from error
    if free_bytes < needed_bytes:
        raise InvalidRequestError(
            f"{path} has {format_gib(free_bytes)} GiB of free disk and the run needs about "
            f"{format_gib(needed_bytes)} GiB. Make room, or choose another place with --output DIR."
        )
    return run


@contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Hold the folder for one launch at a time; the lock goes with the process."""
    run.launch_lock.parent.mkdir(parents=True, exist_ok=True)
    with run.launch_lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequestError(
                f"another launch is running in {run.path}. "
                "Wait for it, or choose another place with --output DIR."
            ) from error
        yield
