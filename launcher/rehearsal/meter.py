"""A rehearsal that is measured: memory and time of every phase, by what the device counts.

On a GPU it has not been run yet.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from launcher.rehearsal.engine import engine_of
from launcher.rehearsal.step import rehearse_step
from launcher.rehearsal.table import Side
from launcher.rehearsal.tracer import Phases
from planner.base.errors import UserError
from planner.plan.schema import Plan
from planner.plan.vocabulary import Part

STEP_PHASES = ("forward", "backward", "optimizer_step")


class Counters(Protocol):
    """Where bytes are read. Both calls wait for the device to finish what it was given."""

    def start(self) -> None: ...
    def read(self) -> dict[str, int]: ...


class CudaCounters:
    """PyTorch's allocator since the start of a phase, and the driver at its end.

    ``requested`` is what tensors asked for, ``allocated`` the blocks they were given
    (``max_memory_allocated``), ``reserved`` what the driver gave (``max_memory_reserved``).

    read: torch/cuda/memory.py at 2.13. ``reset_peak_memory_stats`` sets the peaks to what is
    there now, so what a phase begins with belongs to it. A peak counts when a block is handed
    out, not when a kernel runs: waiting for the device is for the clock and for the driver.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> dict[str, int]:
        torch.cuda.synchronize(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        counted = torch.cuda.memory_stats(self._device)
        return {
            "requested": counted["requested_bytes.all.peak"],
            "allocated": counted["allocated_bytes.all.peak"],
            "reserved": counted["reserved_bytes.all.peak"],
            "device_used": total - free,
        }


class Meter:
    """The largest reading of every phase over all steps; parts cannot be told apart."""

    def __init__(self, counters: Counters) -> None:
        self.phases: Phases = {}
        self.times_s: dict[str, list[float]] = {}
        self.now: str | None = None
        """The phase that is under way, or was when something went wrong."""
        self._counters = counters

    @property
    def step_times_s(self) -> list[float]:
        """Of each step; the waiting between phases is in it."""
        phases = [self.times_s[name] for name in STEP_PHASES if name in self.times_s]
        return [sum(times) for times in zip(*phases, strict=True)]

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        self.now = name
        self._counters.start()
        began = time.perf_counter()
        yield
        found = self._counters.read()
        if name is None:
            return
        self.times_s.setdefault(name, []).append(time.perf_counter() - began)
        before = self.phases.get(name, {})
        self.phases[name] = {key: max(n, before.get(key, 0)) for key, n in found.items()}

    def largest(self, reading: str) -> int:
        return max(found[reading] for found in self.phases.values())

    def part(self, _name: Part) -> Any:
        return nullcontext()

    def switch(self, _name: Part) -> None:
        """Parts cannot be told apart."""

    def own(self, _tensor: torch.Tensor, _part: Part) -> None:
        """Parts cannot be told apart."""


def measured(plan: Plan, steps: int) -> Side:
    """A few steps with random weights on the current GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    meter = Meter(CudaCounters(device))
    try:
        rehearse_step(plan, device, meter, steps=steps, make_engine=engine_of(plan))
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"a step of this plan runs out of memory on {torch.cuda.get_device_name(device)}. "
            "CUDA_VISIBLE_DEVICES= in front of the command traces it without the card."
        ) from error
    return Side(peak_allocated_bytes=meter.largest("allocated"), phases=meter.phases)
