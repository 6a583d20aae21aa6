"""Faults put into a rank by the tests; the launcher itself knows nothing of them.

Words of ``KIND@STAGE:STEP``; ``/N`` behind it: on rank N only; ``+N``: only where micro-batches
are above N.
"""

import os
import re
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.stages import Stages
from planner.plan import Plan
from planner.spec import read_spec

_FAULT = re.compile(r"(\w+)@(\w+):(\d+)(?:/(\d+))?(?:\+(\d+))?")


def install(faults: str) -> None:
    """Make this process fail when it enters one of the stages."""
    mine = [each for each in map(_fault, faults.split()) if each.rank in (None, os.environ["RANK"])]
    enter = Stages.enter

    def entering(self: Stages, stage: Any, step: int) -> None:
        enter(self, stage, step)
        for fault in mine:
            if (fault.stage, fault.step) == (stage, step) and _large(fault.above):
                _meet(fault.kind)

    if mine:
        Stages.enter = entering  # type: ignore[method-assign]


@dataclass(frozen=True)
class Fault:
    kind: str
    stage: str
    step: int
    rank: str | None
    above: str | None


def _fault(text: str) -> Fault:
    match = _FAULT.fullmatch(text)
    assert match is not None, text
    kind, stage, step, rank, above = match.groups()
    return Fault(kind, stage, int(step), rank, above)


def _large(above: str | None) -> bool:
    """Whether the plan that runs has micro-batches that are too large for this fault."""
    if above is None:
        return True
    plan = read_spec(Plan, Path(sys.argv[1]) / "plan.yaml")
    return plan.batch.micro_batch_size > int(above)


def _meet(kind: str) -> None:
    import torch

    if kind == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "disk":
        _limit_files()
    if kind == "error":
        raise RuntimeError("something else")


def _limit_files() -> None:
    """As on a full disk, writes of more than a few bytes fail from now on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, hard))
