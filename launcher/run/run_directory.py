"""The folder that one run writes to: the paths of its files, and whether a run may use it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.units import format_gib
from planner.base.user_folders import expanded
from planner.plan.schema import Plan

_PROBE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run's files, as one node sees them."""

    path: Path
    node: str | None = None
    """Address of this node, if several nodes share the folder."""

    @property
    def plan(self) -> Path:
        """The plan as it is run: a fallback changes it."""
        return self.path / "plan.yaml"

    @property
    def deepspeed(self) -> Path:
        """DeepSpeed's configuration, for people to read: ranks make the same from ``plan``."""
        return self.path / "deepspeed.json"

    @property
    def environment(self) -> Path:
        """Versions, hardware and environment variables of rank 0."""
        return self.path / "environment.json"

    @property
    def inputs(self) -> Path:
        """Places of the checkpoint and the tokenized data, with the size of the data.

        Nodes may have them in different places, so every one of several nodes has its own file.
        """
        return (
            self.path / "inputs.json"
            if self.node is None
            else self.nodes / self.node / "inputs.json"
        )

    @property
    def metrics(self) -> Path:
        """Metrics of the training, one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """Loss and the model's answers, one JSON object per evaluation."""
        return self.path / "evaluation.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def initial_adapter(self) -> Path:
        """The folder of what an adapter began as that is a part of its base."""
        return self.path / "initial-adapter"

    @property
    def job(self) -> Path:
        """Name of the engine that has the run as a job, and of the job there."""
        return self.path / "job" / "job.json"

    @property
    def attempts(self) -> Path:
        """File that lists every start of the ranks: its layout, the step it resumed from, how it
        ended."""
        return self.path / "attempts.json"

    @property
    def ranks(self) -> Path:
        """The folder in which ranks record where they are, and why they failed."""
        return self.path / ".ranks"

    def rank_place(self, rank: int) -> Path:
        """Return the file with the stage and step that a rank is in."""
        return self.ranks / f"rank-{rank}.json"

    @property
    def stop(self) -> Path:
        """Number of a signal; while the file exists, ranks stop after the step they are in."""
        return self.path / ".stop"

    @property
    def probe(self) -> Path:
        """File that makes the run a probe: ranks train on the longest samples and save nothing."""
        return self.path / ".probes"

    @property
    def report(self) -> Path:
        """Result of the run, written last: a run with a report has finished."""
        return self.path / "report.json"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.path / "logs"

    @property
    def launcher_log(self) -> Path:
        """Log of torch elastic on this node."""
        return self.node_log("launcher")

    @property
    def preparation_log(self) -> Path:
        """Log of the preparation on this node."""
        return self.node_log("prepare")

    def node_log(self, name: str) -> Path:
        """Return the log of a name on this node."""
        return self.logs / (f"{name}.log" if self.node is None else f"{name}-{self.node}.log")

    @property
    def lock(self) -> Path:
        """File that is made first and stays: it marks the folder as one of a run."""
        return self.path / ".lock"

    @property
    def nodes(self) -> Path:
        """The folder in which the nodes of a run record their state."""
        return self.path / ".nodes"

    @property
    def launch_lock(self) -> Path:
        """File that a launch locks while it runs: one per folder, or one per node."""
        return self.lock if self.node is None else self.nodes / self.node / "lock"

    def rank_log(self, rank: int) -> Path:
        """Return the log of a rank."""
        return self.logs / f"rank-{rank}.log"

    def result(self, plan: Plan) -> Path:
        """Return the folder of the trained adapter, or of the trained model."""
        return self.path / ("model" if plan.adapter is None else "adapter")


def directory_of(plan: Plan) -> Path:
    """Return the run directory that a plan names."""
    return expanded(plan.output.directory)


def check_may_run_in(path: Path) -> None:
    """Raise ``InvalidRequestError`` for a folder whose content a run would mix with or replace."""
    run = RunDirectory(path)
    if run.report.exists():
        raise InvalidRequestError(
            Phrase(
                "{path} already holds a finished run. Choose another place with --output DIR, or "
                "move that one away.",
                path=path,
            )
        )
    if path.exists() and not path.is_dir():
        raise InvalidRequestError(
            Phrase("{path} is a file. Choose a folder with --output DIR.", path=path)
        )
    if path.is_dir() and any(path.iterdir()) and not run.lock.exists():
        raise InvalidRequestError(
            Phrase(
                "{path} is not empty and not a run directory. Choose another place with --output "
                "DIR.",
                path=path,
            )
        )


def create(path: Path, *, needed_bytes: int, node: str | None = None) -> RunDirectory:
    """Make the folder and check that it can be written and has room, before anything expensive.

    Raise ``InvalidRequestError`` if not. ``node`` is this node's address, if several share it.
    """
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
            Phrase(
                "cannot write {path}: {reason}. Choose another place with {option}.",
                path=path,
                reason=reason,
                option="--output DIR",
            )
        ) from error
    if free_bytes < needed_bytes:
        raise InvalidRequestError(
            Phrase(
                "{path} has {free} GiB of free disk and the run needs about {needed} GiB. Make "
                "room, or choose another place with --output DIR.",
                path=path,
                free=format_gib(free_bytes),
                needed=format_gib(needed_bytes),
            )
        )
    return run


@contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Lock the folder against another launch; the kernel releases the lock with the process.

    Raise ``InvalidRequestError`` if another launch has locked it.
    """
    run.launch_lock.parent.mkdir(parents=True, exist_ok=True)
    with run.launch_lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequestError(
                Phrase(
                    "another launch is running in {path}. Wait for it, or choose another place "
                    "with --output DIR.",
                    path=run.path,
                )
            ) from error
        yield


def is_locked(run: RunDirectory) -> bool:
    """Return whether another launch runs in the folder."""
    try:
        with run.launch_lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
