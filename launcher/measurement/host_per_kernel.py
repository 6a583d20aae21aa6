"""Seconds that the host needs to launch one kernel: steps of models whose kernels take no time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from launcher.rehearsal.engine import plain_engine
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.step import rehearse_step
from planner.plan.schema import Plan
from planner.plan.vocabulary import Part

STEPS = 5
TIMED = ("forward", "backward")


class TinyStep(NamedTuple):
    """A plan of a tiny model on one device, and how many kernels a micro-batch of it launches."""

    plan: Plan
    kernels: int


class PhaseClock:
    """A recorder of the seconds of every pass."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, list[float]] = {name: [] for name in TIMED}

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        """Time the block if it is a pass."""
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        if name in self.seconds:
            self.seconds[name].append(time.perf_counter() - began)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def part(self, _name: Part) -> Any:
        """Do nothing around the block."""
        return nullcontext()

    def switch(self, _name: Part) -> None:
        """Do nothing."""

    def assign(self, _tensor: torch.Tensor, _part: Part) -> None:
        """Do nothing."""

    @property
    def fastest_s(self) -> float:
        """Seconds of the fastest forward and the fastest backward pass."""
        return sum(min(times) for times in self.seconds.values())


def host_s_per_kernel(steps: Sequence[TinyStep], device: torch.device) -> float:
    """Return the seconds of all passes over the number of all kernels."""
    seconds = 0.0
    for step in steps:
        if dist.is_initialized():
            dist.barrier()
        clock = PhaseClock(device)
        with quiet_libraries():
            rehearse_step(step.plan, device, clock, steps=STEPS, make_engine=plain_engine)
        seconds += clock.fastest_s
    return seconds / sum(step.kernels for step in steps)
