"""Where every rank of a run is: one line in a file per rank, rewritten at every stage.

All ranks of a plan pass the same stages in the same order, so the others wait for the rank that
has passed the fewest. The launching process reads the files, so no training stack is imported.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from planner.base.phrases import Phrase

Stage = Literal[
    "load", "forward", "backward", "optimizer_step", "step_end", "evaluation", "save", "end"
]
STAGE_TITLES: dict[Stage, Phrase] = {
    "load": Phrase("load"),
    "forward": Phrase("forward"),
    "backward": Phrase("backward"),
    "optimizer_step": Phrase("optimizer step"),
    "step_end": Phrase("step end"),
    "evaluation": Phrase("evaluation"),
    "save": Phrase("save"),
    "end": Phrase("end"),
}
_LINE_BYTES = 256


def stage_words(stage: Stage, step: int) -> Phrase:
    """Return a stage and its optimizer step in words; step 0 is before the first."""
    title = STAGE_TITLES[stage]
    return Phrase("{stage} of step {step}", stage=title, step=step) if step else title


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPosition:
    """The stage that one rank is in, and since when."""

    rank: int
    process: int
    node: str | None = None
    """Address of the node that runs the process; None for a run on one node."""
    stage: Stage
    step: int
    """Number of the optimizer step that it is in, from 1; 0 before the first."""
    passed: int
    """Number of stages that it has entered."""
    entered_at: float
    """Time at which it entered the stage, in seconds since the epoch."""
    began: int | None
    """Time at which its process began, in clock ticks since the boot of its node."""

    def __str__(self) -> str:
        where = stage_words(self.stage, self.step)
        return Phrase("rank {rank} ({where})", rank=self.rank, where=where)


class Stages:
    """The writer of one rank's position, with one system call per stage."""

    def __init__(self, file: Path, rank: int, node: str | None = None) -> None:
        file.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._rank, self._node = rank, node
        self._began = began_at(Path("/proc/self"))
        self.stage: Stage = "load"
        self.step = 0
        self.passed = 0
        self.on_enter: Callable[[Stage], None] = lambda _stage: None
        """Called with every stage that is entered."""

    def enter(self, stage: Stage, step: int) -> None:
        """Record that the rank enters a stage of an optimizer step, counted from 1."""
        self.stage, self.step = stage, step
        self.passed += 1
        self.on_enter(stage)
        position = RankPosition(
            rank=self._rank,
            process=os.getpid(),
            node=self._node,
            stage=stage,
            step=step,
            passed=self.passed,
            entered_at=time.time(),
            began=self._began,
        )
        line = json.dumps(asdict(position)).encode().ljust(_LINE_BYTES - 1) + b"\n"
        os.pwrite(self._descriptor, line, 0)


def rank_positions(folder: Path) -> list[RankPosition]:
    """Return the position of every rank that has recorded one, in rank order."""
    positions = []
    for file in folder.glob("rank-*.json") if folder.is_dir() else ():
        try:
            positions.append(RankPosition(**json.loads(file.read_bytes())))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
            continue  # it is being written; the next look finds it whole
    return sorted(positions, key=lambda position: position.rank)


def positions_here(
    positions: Sequence[RankPosition], node: str | None, proc: Path = Path("/proc")
) -> list[RankPosition]:
    """Return those whose process runs on this node, which is None for a run on one node."""
    return [position for position in positions if position.node == node and _runs(position, proc)]


def _runs(position: RankPosition, proc: Path) -> bool:
    """Return whether its process is still the one that wrote it: process ids are reused."""
    began = began_at(proc / str(position.process))
    return began is not None and began == position.began


def began_at(process: Path) -> int | None:
    """Return when a process began, in clock ticks since the boot, whatever the wall clock does.

    ``process`` is its folder in /proc. None if it has ended. read: proc_pid_stat(5), field 22.
    """
    fields = _fields(process / "stat")
    return int(fields[19]) if fields and fields[0] != "Z" else None


def stopped_by_signal(
    positions: Sequence[RankPosition], proc: Path = Path("/proc")
) -> list[RankPosition]:
    """Return those whose process a signal has stopped: state T of proc(5)."""
    return [p for p in positions if _fields(proc / str(p.process) / "stat")[:1] == ["T"]]


def _fields(file: Path) -> list[str]:
    """Return the fields of stat in proc(5) from the state on; none if the process has ended."""
    try:
        return file.read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def furthest_behind(positions: Sequence[RankPosition]) -> list[RankPosition]:
    """Return the ranks that have passed the fewest stages; all of them if none is behind."""
    fewest = min((position.passed for position in positions), default=0)
    return [position for position in positions if position.passed == fewest]
