"""The failure of a rank, as the rank itself records it; no training stack is imported."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from launcher.compat.torch_text import (
    OUT_OF_MEMORY,
    PEER_ERRORS,
    device_remedy,
    is_connection_error,
    room_bytes,
)
from launcher.faults.rank_stages import Stage, stage_words
from launcher.storage.json_files import write_json
from planner.base.errors import NO_ROOM, exhausted
from planner.base.phrases import Phrase

Cause = Literal[
    "out_of_memory",
    "not_finite",
    "not_as_planned",
    "not_saved",
    "device_failed",
    "other",
    "lost_peer",
    "died",
]
KNOWN_CAUSES: tuple[Cause, ...] = (
    "out_of_memory",
    "not_finite",
    "not_as_planned",
    "not_saved",
    "device_failed",
)
"""Causes whose message is all that a person needs: no end of a log is shown."""
CAUSE_TITLES: dict[Cause, str] = {
    "out_of_memory": Phrase("out of memory"),
    "not_finite": Phrase("not finite"),
    "not_as_planned": Phrase("not as planned"),
    "not_saved": Phrase("not saved"),
    "device_failed": Phrase("the GPU failed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What ended one rank, and where it was."""

    cause: Cause
    rank: int
    stage: Stage
    step: int
    message: str
    """One line that says what happened."""
    at: float
    """Time of the failure, in seconds since the epoch."""
    exit_code: int | None = None
    """Exit code of a rank that recorded nothing, negative for a signal; else None."""
    room_bytes: int | None = None
    """Bytes of its GPU that the rank could have when memory ran out; None if that is unknown."""

    @property
    def where(self) -> str:
        """The stage and the step.

        >>> Failure(
        ...     cause="other", rank=1, stage="optimizer_step", step=3, message="", at=0.0
        ... ).where
        'optimizer step of step 3'
        """
        return stage_words(self.stage, self.step)

    def __str__(self) -> str:
        if self.cause == "died":
            return Phrase(
                "rank {rank} ({where}) {message}",
                rank=self.rank,
                where=self.where,
                message=self.message,
            )
        if self.cause in KNOWN_CAUSES:
            return Phrase(
                "{cause} on rank {rank}, {where}",
                cause=CAUSE_TITLES[self.cause],
                rank=self.rank,
                where=self.where,
            )
        return Phrase(
            "rank {rank} ({where}): {message}",
            rank=self.rank,
            where=self.where,
            message=self.message,
        )


class NotFiniteError(RuntimeError):
    """A loss that is not a finite number: training/durable_trainer.py ends the run there."""


class NotSavedError(RuntimeError):
    """A checkpoint or a result that could not be written whole."""


def write_failure(folder: Path, failure: Failure) -> None:
    """Record a rank's failure in the run's folder of ranks."""
    folder.mkdir(exist_ok=True)
    write_json(folder / f"failure-{failure.rank}.json", asdict(failure))


def recorded_failures(folder: Path) -> list[Failure]:
    """Return the failures that ranks have recorded, in no order."""
    return [Failure(**json.loads(path.read_bytes())) for path in folder.glob("failure-*.json")]


def forget_failures(folder: Path) -> None:
    """Remove all positions and failures of ranks, before another attempt."""
    for path in folder.glob("*.json"):
        path.unlink()


def forget_failure(folder: Path, rank: int) -> None:
    """Remove the failure of a rank that was restarted."""
    (folder / f"failure-{rank}.json").unlink(missing_ok=True)


def failure_of(error: BaseException, *, rank: int, stage: Stage, step: int) -> Failure:
    """Return the failure that an error means; its message is the error's first line."""
    cause = _cause(error)
    lacking = exhausted(error) if isinstance(error, OSError) else None
    text = str(lacking or error).strip()
    message = text.splitlines()[0] if text else type(error).__name__
    return Failure(
        cause=cause,
        rank=rank,
        stage=stage,
        step=step,
        message=message,
        at=time.time(),
        room_bytes=room_bytes(text) if cause == "out_of_memory" else None,
    )


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error only says that another rank no longer answers."""
    return _cause(error) == "lost_peer"


def _cause(error: BaseException) -> Cause:
    """Return the cause by the names of the error's classes, which live in the training stack."""
    causes: dict[str, Cause] = {
        "OutOfMemoryError": "out_of_memory",
        "NotFiniteError": "not_finite",
        "PlanMismatchError": "not_as_planned",
        "NotSavedError": "not_saved",
        **dict.fromkeys(PEER_ERRORS, "lost_peer"),
    }
    for kind in type(error).__mro__:
        if kind.__name__ in PEER_ERRORS and OUT_OF_MEMORY in str(error):
            return "out_of_memory"
        if kind.__name__ in causes:
            return causes[kind.__name__]
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "not_saved"
    if device_remedy(str(error)) is not None:
        return "device_failed"
    return "lost_peer" if is_connection_error(error) else "other"
