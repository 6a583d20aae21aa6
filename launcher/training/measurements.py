"""Measurements of a run: memory of every rank, time of every step."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from launcher.run.process_memory import status_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Memory of one rank, mostly at its largest moment."""

    rank: int
    peak_allocated_bytes: int | None
    """``torch.cuda.max_memory_allocated``; None on the CPU."""
    peak_reserved_bytes: int | None
    """``torch.cuda.max_memory_reserved``; None on the CPU."""
    device_used_bytes: int | None
    """Bytes that the driver has given to all processes at the end, when the allocator still holds
    its peak; None on the CPU."""
    peak_resident_bytes: int
    """Resident memory of the process, libraries and mapped files included."""
    resident_before_model_bytes: int
    """Resident memory before the model was loaded: interpreter, libraries, process group."""
    longest_batch_tokens: int
    """Tokens of a row of the longest batch: memory is that of this length, not of the plan's."""


def rank_memory(
    *,
    rank: int,
    resident_before_model_bytes: int,
    longest_batch_tokens: int,
    device: torch.device,
) -> RankMemory:
    """Return the memory of this rank so far; its own device is ``device``."""
    on_gpu = device.type == "cuda"
    return RankMemory(
        rank=rank,
        peak_allocated_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else None,
        peak_reserved_bytes=torch.cuda.max_memory_reserved(device) if on_gpu else None,
        device_used_bytes=_device_used_bytes(device) if on_gpu else None,
        peak_resident_bytes=status_bytes("VmHWM"),
        resident_before_model_bytes=resident_before_model_bytes,
        longest_batch_tokens=longest_batch_tokens,
    )


def _device_used_bytes(device: torch.device) -> int:
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return total_bytes - free_bytes


def gather(value: Any) -> list[Any]:
    """Return the values of all ranks, in rank order; called on every rank."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def typical_step_time_s(step_times: Sequence[float]) -> float:
    """Return the median in seconds without the first step, which compiles and allocates."""
    return statistics.median(step_times[1:] or step_times)
