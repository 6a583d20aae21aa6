"""Rates of collectives between the devices of this machine."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from launcher.measurement.stopwatch import Stopwatch
from planner.base.units import KIB, MIB

SIZES = (64 * KIB, 1 * MIB, 8 * MIB, 25 * MIB, 100 * MIB)
"""Bytes of the whole tensor; 25 MiB is a bucket of DDP."""
FP32_BYTES = 4


def link_rates(watch: Stopwatch) -> dict[str, Any]:
    """Return the rates of this process group's collectives; all ranks call it together."""
    ranks = dist.get_world_size()
    makers: dict[str, Callable[[torch.device, int], Callable[[], Any]]] = {
        "all_reduce": _all_reduce,
        "all_gather": partial(_all_gather, ranks=ranks),
        "reduce": _reduce,
    }
    return {"ranks": ranks, **{name: _curve(watch, make) for name, make in makers.items()}}


def _curve(
    watch: Stopwatch, make: Callable[[torch.device, int], Callable[[], Any]]
) -> list[dict[str, float]]:
    points: list[dict[str, float]] = []
    for size in reversed(SIZES):
        if points and watch.is_over:
            break
        seconds = watch.seconds_together(make(watch.device, size))
        points.insert(0, {"size": float(size), "per_s": size / seconds})
    return points


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
