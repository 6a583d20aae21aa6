"""Rates of collectives between the devices of this machine."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from launcher.measurement.stopwatch import Stopwatch, curve
from planner.base.units import FP32_BYTES, KIB, MIB

SIZES = (64 * KIB, 1 * MIB, 8 * MIB, 25 * MIB, 100 * MIB)
"""Bytes of the whole tensor; 25 MiB is a bucket of DDP."""


def link_rates(watch: Stopwatch) -> dict[str, Any]:
    """Return the rates of this process group's collectives; all ranks call it together."""
    ranks = dist.get_world_size()
    makers: dict[str, Callable[[torch.device, int], Callable[[], Any]]] = {
        "all_reduce": _all_reduce,
        "all_gather": partial(_all_gather, ranks=ranks),
        "reduce": _reduce,
    }
    curves = {
        name: curve(
            watch,
            ((size, make(watch.device, size)) for size in reversed(SIZES)),
            watch.seconds_together,
        )
        for name, make in makers.items()
    }
    return {"ranks": ranks, **curves}


def _all_reduce(device: torch.device, size: int) -> Callable[[], Any]:
    return partial(dist.all_reduce, torch.zeros(size // FP32_BYTES, device=device))


def _all_gather(device: torch.device, size: int, *, ranks: int) -> Callable[[], Any]:
    shard = torch.zeros(size // FP32_BYTES // ranks, device=device)
    whole = torch.empty(shard.numel() * ranks, device=device)
    return partial(dist.all_gather_into_tensor, whole, shard)


def _reduce(device: torch.device, size: int) -> Callable[[], Any]:
    """A sum that every rank receives its part of, as DeepSpeed makes it: a reduction per owner."""
    parts = torch.zeros(size // FP32_BYTES, device=device).chunk(dist.get_world_size())

    def reduced() -> None:
        for owner, part in enumerate(parts):
            dist.reduce(part, owner)

    return reduced
