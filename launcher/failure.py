"""What ended a run, as the rank that met it wrote it down; imports no training stack."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from launcher.stages import Stage

Cause = Literal["out_of_memory", "not_finite", "not_as_planned", "not_saved", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    cause: Cause
    rank: int
    stage: Stage
    step: int
    message: str
    """One line, for a person."""
    at: float
    """Seconds since the epoch."""

    @property
    def where(self) -> str:
        """
        >>> Failure(
        ...     cause="other", rank=1, stage="optimizer_step", step=3, message="", at=0.0
        ... ).where
        'optimizer step of step 3'
        """
        stage = self.stage.replace("_", " ")
        return f"{stage} of step {self.step}" if self.step else stage


class NotFiniteError(RuntimeError):
    """The loss is no number any more; what trains on from here is lost."""


class NotSavedError(RuntimeError):
    """A checkpoint could not be written whole."""


def write_failure(folder: Path, failure: Failure) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"failure-{failure.rank}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    partial.replace(path)


def first_failure(folder: Path) -> Failure | None:
    """The earliest whose cause is known, else the earliest: the others only lost their peers."""
    found = [Failure(**json.loads(path.read_bytes())) for path in folder.glob("failure-*.json")]
    return min(found, key=lambda each: (each.cause == "other", each.at), default=None)


def forget_failures(folder: Path) -> None:
    """Before another attempt."""
    for path in folder.glob("*.json"):
        path.unlink()


def forget_failure(folder: Path, rank: int) -> None:
    """Of a rank that starts again."""
    (folder / f"failure-{rank}.json").unlink(missing_ok=True)


def failure_of(error: BaseException, *, rank: int, stage: Stage, step: int) -> Failure:
    cause = _cause(error)
    text = str(error).strip()
    message = text.splitlines()[0] if text else type(error).__name__
    return Failure(cause=cause, rank=rank, stage=stage, step=step, message=message, at=time.time())


def _cause(error: BaseException) -> Cause:
    """By name where the class lives in the training stack."""
    causes: dict[str, Cause] = {
        "OutOfMemoryError": "out_of_memory",
        "NotFiniteError": "not_finite",
        "PlanMismatchError": "not_as_planned",
        "NotSavedError": "not_saved",
    }
    for kind in type(error).__mro__:
        if kind.__name__ in causes:
            return causes[kind.__name__]
    return "other"
