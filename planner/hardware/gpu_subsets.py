"""Machines of unequal GPUs: what counting all as the weakest leaves idle, and a better subset."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.hardware.machine import Found

BETTER_SHARE = 1.05
"""A subset is worth a sentence from this much more memory or speed in all."""


class Subset(NamedTuple):
    """GPUs that each count as the weakest of them."""

    members: tuple[Found, ...]

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


def subsets(found: Sequence[Found]) -> Iterator[Subset]:
    """Every one that can be best: all GPUs with at least so much memory and so much speed."""
    seen = set()
    for least in {each.free_bytes for each in found}:
        for slowest in {each.flops_per_s or 0 for each in found}:
            members = tuple(
                each
                for each in found
                if each.free_bytes >= least and (each.flops_per_s or 0) >= slowest
            )
            key = tuple(each.device.index for each in members)
            if members and key not in seen:
                seen.add(key)
                yield Subset(members=members)


def better_subset(found: Sequence[Found]) -> Subset | None:
    """The one with the most speed, then the most memory, where it has clearly more of one
    than all GPUs together; one that has less of both never is."""
    whole = Subset(members=tuple(found))
    gains = [each for each in subsets(found) if _gains(each, whole)]
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
