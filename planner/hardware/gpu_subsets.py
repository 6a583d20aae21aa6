"""Machines of unequal GPUs: what counting all as the weakest leaves idle, and a better subset."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.hardware.machine import UsableGpu

BETTER_SHARE = 1.05
"""How many times more total memory or speed makes a subset worth a sentence."""


class Subset(NamedTuple):
    """GPUs that are each planned as the weakest of them."""

    members: tuple[UsableGpu, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(sorted(each.device.index for each in self.members))

    @property
    def num_bytes(self) -> int:
        return len(self.members) * min(each.free_bytes for each in self.members)

    @property
    def flops_per_s(self) -> int | None:
        rates = [each.flops_per_s for each in self.members]
        known = [rate for rate in rates if rate is not None]
        return len(known) * min(known) if len(known) == len(rates) else None

    @property
    def idle_bytes(self) -> int:
        return sum(each.free_bytes for each in self.members) - self.num_bytes

    @property
    def idle_flops_per_s(self) -> int | None:
        if self.flops_per_s is None:
            return None
        return sum(each.flops_per_s or 0 for each in self.members) - self.flops_per_s


def subsets(gpus: Sequence[UsableGpu]) -> Iterator[Subset]:
    """Yield every subset that can be best: all GPUs with at least so much memory and speed."""
    seen = set()
    for least in {each.free_bytes for each in gpus}:
        for slowest in {each.flops_per_s or 0 for each in gpus}:
            members = tuple(
                each
                for each in gpus
                if each.free_bytes >= least and (each.flops_per_s or 0) >= slowest
            )
            key = tuple(each.device.index for each in members)
            if members and key not in seen:
                seen.add(key)
                yield Subset(members=members)


def better_subset(gpus: Sequence[UsableGpu]) -> Subset | None:
    """Return the subset with the most speed, then the most memory, that has clearly more of one
    than all GPUs together; None where there is none. A subset with less of both never is."""
    whole = Subset(members=tuple(gpus))
    gains = [each for each in subsets(gpus) if _gains(each, whole)]
    lossless = [each for each in gains if _loses_nothing(each, whole)]
    return max(lossless or gains, key=_worth, default=None)


def _worth(subset: Subset) -> tuple[int, int, int]:
    return subset.flops_per_s or 0, subset.num_bytes, len(subset.members)


def _gains(subset: Subset, whole: Subset) -> bool:
    faster = (subset.flops_per_s or 0) >= BETTER_SHARE * (whole.flops_per_s or 0) > 0
    return faster or subset.num_bytes >= BETTER_SHARE * whole.num_bytes


def _loses_nothing(subset: Subset, whole: Subset) -> bool:
    as_fast = (subset.flops_per_s or 0) >= (whole.flops_per_s or 0)
    return as_fast and subset.num_bytes >= whole.num_bytes
