"""``launch`` on nodes of this machine, as a user would type it on each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure.environment import ROOT
from benchmarks.nodes.namespaces import Namespace
from launcher.run.read_plan import plan_text
from planner.plan.schema import Plan

LOOK_SECONDS = 0.2
LIMIT_SECONDS = 1800


@dataclass
class Launch:
    """One node's ``launch``, in a folder that all nodes share."""

    folder: Path
    node: Namespace | None
    options: Sequence[str]
    number: int = 0
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "launcher", "plan.yaml", *self.options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120"}
        with self.said_file.open("wb") as said:
            self.process = subprocess.Popen(
                command if self.node is None else self.node.command(command),
                cwd=self.folder,
                env={**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def said_file(self) -> Path:
        where = "one" if self.node is None else self.node.address
        return self.folder / f"said-{where}-{self.number}.txt"

    @property
    def said(self) -> str:
        return self.said_file.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> int:
        """Wait, and return the exit code."""
        return self.process.wait(LIMIT_SECONDS)


def write_plan(plan: Plan, folder: Path) -> None:
    (folder / "plan.yaml").write_text(plan_text(plan), encoding="utf-8")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in metrics(folder)]


def metrics(folder: Path) -> list[dict[str, float]]:
    file = folder / "run" / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


def seconds_until(true: Callable[[], object], *, limit_s: float = LIMIT_SECONDS) -> float:
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"nothing came within {limit_s:g} s")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began
