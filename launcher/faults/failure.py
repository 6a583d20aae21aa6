"""What ended a run, as the rank that met it wrote it down; imports no training stack."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from launcher.compat.torch_text import PEER_ERRORS, is_connection_error
from launcher.faults.rank_stages import Stage
from launcher.storage.json_files import write_json

Cause = Literal[
    "out_of_memory", "not_finite", "not_as_planned", "not_saved", "other", "lost_peer", "died"
]
KNOWN_CAUSES: tuple[Cause, ...] = ("out_of_memory", "not_finite", "not_as_planned", "not_saved")
"""Those whose message says all there is to say."""


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
    exit_code: int | None = None
    """Of a rank that died without a word: minus the signal that killed it."""

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

    def __str__(self) -> str:
        if self.cause == "died":
            return f"rank {self.rank} ({self.where}) {self.message}"
        if self.cause in KNOWN_CAUSES:
            return f"{self.cause.replace('_', ' ')} on rank {self.rank}, {self.where}"
        return f"rank {self.rank} ({self.where}): {self.message}"


class NotFiniteError(RuntimeError):
    """The loss is no number any more; what trains on from here is lost."""


class NotSavedError(RuntimeError):
    """A checkpoint could not be written whole."""


def write_failure(folder: Path, failure: Failure) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / f"failure-{failure.rank}.json", asdict(failure))


def told_failures(folder: Path) -> list[Failure]:
    """Those that ranks wrote down."""
    return [Failure(**json.loads(path.read_bytes())) for path in folder.glob("failure-*.json")]


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


def is_lost_peer(error: BaseException) -> bool:
    """Whether it only says that another rank does not answer any more."""
    return _cause(error) == "lost_peer"


def _cause(error: BaseException) -> Cause:
    """By name where the class lives in the training stack."""
    causes: dict[str, Cause] = {
        "OutOfMemoryError": "out_of_memory",
        "NotFiniteError": "not_finite",
        "PlanMismatchError": "not_as_planned",
        "NotSavedError": "not_saved",
        **dict.fromkeys(PEER_ERRORS, "lost_peer"),
    }
    for kind in type(error).__mro__:
        if kind.__name__ in causes:
            return causes[kind.__name__]
    return "lost_peer" if is_connection_error(error) else "other"
