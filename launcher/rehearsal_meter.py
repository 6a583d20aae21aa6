"""A rehearsal on a real GPU, by PyTorch's own counters. Not yet run on one."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from launcher.rehearsal_step import rehearse_step
from launcher.rehearsal_table import Side
from launcher.trace import Phases
from planner.errors import UserError
from planner.plan import Part, Plan


class Meter:
    """The largest allocation of every phase, over all steps; parts cannot be told apart."""

    def __init__(self, device: torch.device) -> None:
        self.phases: Phases = {}
        self._device = device

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        torch.cuda.synchronize(self._device)
        if name is None:
            return
        free, total = torch.cuda.mem_get_info(self._device)
        found = {
            "allocated": torch.cuda.max_memory_allocated(self._device),
            "reserved": torch.cuda.max_memory_reserved(self._device),
            "device_used": total - free,
        }
        before = self.phases.get(name, {})
        self.phases[name] = {key: max(n, before.get(key, 0)) for key, n in found.items()}

    def part(self, _name: Part) -> Any:
        return nullcontext()

    def switch(self, _name: Part) -> None:
        """Parts cannot be told apart."""

    def own(self, _tensor: torch.Tensor, _part: Part) -> None:
        """Parts cannot be told apart."""


def measured(plan: Plan, steps: int) -> Side:
    """A few steps with random weights on the current GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    meter = Meter(device)
    try:
        rehearse_step(plan, device, meter, steps=steps)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"a step of this plan runs out of memory on {torch.cuda.get_device_name(device)}. "
            "CUDA_VISIBLE_DEVICES= in front of the command traces it without the card."
        ) from error
    peak = max(found["allocated"] for found in meter.phases.values())
    return Side(peak_allocated_bytes=peak, phases=meter.phases)
