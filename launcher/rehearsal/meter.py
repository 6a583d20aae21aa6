"""A rehearsal that is measured: memory and time of every phase, as the device counts them.

It has not been run on a GPU yet.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from launcher.rehearsal.engine import engine_of
from launcher.rehearsal.phases import Phases
from launcher.rehearsal.step import rehearse_step
from launcher.rehearsal.table import Side
from launcher.training.model_building import pin_attention_backends
from planner.base.errors import UserError
from planner.base.phrases import Phrase
from planner.plan.schema import Plan
from planner.plan.vocabulary import Part

STEP_PHASES = ("forward", "backward", "optimizer_step")


class Counters(Protocol):
    """Where bytes are read. Both calls wait for the device to finish its work."""

    def start(self) -> None:
        """Begin a phase."""
        ...

    def read(self) -> dict[str, int]:
        """Return the bytes since the start of the phase, by reading."""
        ...


class CudaCounters:
    """PyTorch's allocator since the start of a phase, and the driver at its end.

    ``requested`` is the size of the tensors, ``allocated`` that of their blocks
    (``max_memory_allocated``), ``reserved`` what the driver gave (``max_memory_reserved``), all at
    their peak; ``device_used`` is what the driver has given to all processes.

    read: torch/cuda/memory.py at 2.13. ``reset_peak_memory_stats`` sets the peaks to the present
    sizes, so what a phase begins with belongs to it. A peak counts when a block is handed out, not
    when a kernel runs: waiting for the device is for the clock and for the driver.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Reset the peaks of PyTorch's allocator."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> dict[str, int]:
        """Return the peaks since the start, and what the device has given."""
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
    """A recorder of the largest readings of every phase over all steps.

    A device does not count parts of memory apart, so those calls do nothing.
    """

    def __init__(self, counters: Counters) -> None:
        self.phases: Phases = {}
        """Largest bytes by phase and reading."""
        self.times_s: dict[str, list[float]] = {}
        """Seconds of every step by phase."""
        self.now: str | None = None
        """Phase that runs, or ran when the rehearsal failed."""
        self._counters = counters

    @property
    def step_times_s(self) -> list[float]:
        """Seconds of every step, with the waiting between its phases."""
        phases = [self.times_s[name] for name in STEP_PHASES if name in self.times_s]
        return [sum(times) for times in zip(*phases, strict=True)]

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        """Read the counters and the clock at the end of the block; with None, read nothing."""
        self.now = name
        self._counters.start()
        began = time.perf_counter()
        yield
        readings = self._counters.read()
        if name is None:
            return
        self.times_s.setdefault(name, []).append(time.perf_counter() - began)
        before = self.phases.get(name, {})
        self.phases[name] = {key: max(n, before.get(key, 0)) for key, n in readings.items()}

    def largest(self, reading: str) -> int:
        """Return the largest bytes of one reading over all phases."""
        return max(readings[reading] for readings in self.phases.values())

    def part(self, _name: Part) -> Any:
        """Do nothing around the block."""
        return nullcontext()

    def switch(self, _name: Part) -> None:
        """Do nothing."""

    def assign(self, _tensor: torch.Tensor, _part: Part) -> None:
        """Do nothing."""


def measured(plan: Plan, steps: int) -> Side:
    """Measure that many steps with random weights on the current GPU.

    Raises ``UserError`` if they run out of memory.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    pin_attention_backends()
    meter = Meter(CudaCounters(device))
    try:
        rehearse_step(plan, device, meter, steps=steps, make_engine=engine_of(plan))
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            Phrase(
                "a step of this plan runs out of memory on {card}. Put "
                "CUDA_VISIBLE_DEVICES= before the command to trace the step without the GPU.",
                card=torch.cuda.get_device_name(device),
            )
        ) from error
    return Side(peak_allocated_bytes=meter.largest("allocated"), phases=meter.phases)
