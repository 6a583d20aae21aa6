"""Where each rank of a run is: a line in a file of its own, rewritten at every stage.

All ranks of a plan pass the same stages in the same order, so the one that has passed fewest
is the one that the others wait for. Imports no training stack: the launching process reads it.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Stage = Literal[
    "load", "forward", "backward", "optimizer_step", "step_end", "evaluation", "save", "end"
]
_LINE_BYTES = 256
_CLOCK_SECONDS = 1.0
"""Two readings of the clock may differ by, when it is set right meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of one rank."""

    rank: int
    process: int
    node: str | None = None
    """Of several, the address of the one that has the process."""
    stage: Stage
    step: int
    """The optimizer step it is in, counted from 1; 0 before the first."""
    passed: int
    """Stages so far."""
    entered_at: float
    """Seconds since the epoch."""

    def __str__(self) -> str:
        where = self.stage.replace("_", " ")
        return (
            f"rank {self.rank} ({where} of step {self.step})"
            if self.step
            else (f"rank {self.rank} ({where})")
        )


class Stages:
    """Written by the rank itself: one system call a stage."""

    def __init__(self, file: Path, rank: int, node: str | None = None) -> None:
        file.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._rank, self._node = rank, node
        self.stage: Stage = "load"
        self.step = 0
        self.passed = 0

    def enter(self, stage: Stage, step: int) -> None:
        self.stage, self.step = stage, step
        self.passed += 1
        place = Place(
            rank=self._rank,
            process=os.getpid(),
            node=self._node,
            stage=stage,
            step=step,
            passed=self.passed,
            entered_at=time.time(),
        )
        line = json.dumps(asdict(place)).encode().ljust(_LINE_BYTES - 1) + b"\n"
        os.pwrite(self._descriptor, line, 0)


def places(folder: Path) -> list[Place]:
    """Of every rank that has said where it is, in rank order."""
    found = []
    for file in folder.glob("rank-*.json") if folder.is_dir() else ():
        try:
            found.append(Place(**json.loads(file.read_bytes())))
        except json.JSONDecodeError:
            continue  # it has only just been made
    return sorted(found, key=lambda place: place.rank)


def of_node(found: Sequence[Place], node: str | None, proc: Path = Path("/proc")) -> list[Place]:
    """Those whose process runs here."""
    return [place for place in found if place.node == node and _runs(place, proc)]


def _runs(place: Place, proc: Path) -> bool:
    """Whether its process still is the one that wrote it: ids are given again."""
    fields = _fields(proc / str(place.process) / "stat")
    if not fields or fields[0] == "Z":
        return False
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    started_at = booted_at + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return started_at <= place.entered_at + _CLOCK_SECONDS


def frozen(found: Sequence[Place], proc: Path = Path("/proc")) -> list[Place]:
    """Those whose process somebody stopped: proc(5), state T."""
    return [p for p in found if _fields(proc / str(p.process) / "stat")[:1] == ["T"]]


def _fields(file: Path) -> list[str]:
    """proc(5), stat, from the state on; nothing of a process that has ended."""
    try:
        return file.read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def waited_for(found: Sequence[Place]) -> list[Place]:
    """Those behind all others; every rank where none is behind."""
    fewest = min((place.passed for place in found), default=0)
    return [place for place in found if place.passed == fewest]
