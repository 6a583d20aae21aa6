"""What a run really took: memory of each rank, time of each step."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from launcher.run.process_memory import status_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes at the worst moment of one rank."""

    rank: int
    peak_allocated_bytes: int | None
    """``torch.cuda.max_memory_allocated``; nothing on the CPU."""
    peak_reserved_bytes: int | None
    device_used_bytes: int | None
    """What the driver gave to all processes, at the end: the allocator returns nothing before."""
    peak_resident_bytes: int
    """Resident memory of the process, libraries and mapped files included."""
    resident_before_model_bytes: int
    """The same before the model was loaded: interpreter, libraries, process group."""
    longest_batch_tokens: int
    """Of a row of the longest batch: memory was that of this length, not of the plan's."""


def rank_memory(
    *,
    rank: int,
    resident_before_model_bytes: int,
    longest_batch_tokens: int,
    device: torch.device,
) -> RankMemory:
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


def gather(own: Any) -> list[Any]:
    """One object a rank, in rank order, on every rank."""
    if not torch.distributed.is_initialized():
        return [own]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def typical_step_time_s(step_times: Sequence[float]) -> float:
    """Median without the first step, which compiles and allocates."""
    return statistics.median(step_times[1:] or step_times)
