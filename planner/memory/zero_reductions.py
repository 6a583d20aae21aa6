"""When gradients are reduced under ZeRO-1 and ZeRO-2, and what that holds or frees, by layer.

read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8. A gradient is copied into the bucket; one
that is larger stays where it is. The bucket is reduced when the next gradient has no room in it
(reduce_independent_p_g_buckets_and_remove_grads): pieces that belong to several ranks are copied
into one tensor first (allreduce_and_scatter, allreduce_bucket); then a rank copies the parameters
that its part touches into a buffer, made at the first of them (copy_grads_in_partition). ZeRO-1
leaves the others' large gradients where they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.base.units import block, ceil_div
from planner.memory.zero_1_2 import NORM_BYTES, Partition, partitions
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import ZeroStage
from planner.workload.dtypes import Numerics
from planner.workload.parameters import Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload


class Reductions(NamedTuple):
    """One rank's reductions in each stretch of backward: the last layer first, the
    embedding last."""

    gained: tuple[int, ...]
    """Bytes that gradients come to hold in a stretch."""
    freed: tuple[int, ...]
    """Bytes that gradients give back in a stretch."""
    copies: tuple[int, ...]
    """Bytes of the largest copy in a stretch."""


@cached_by_settings(*TRAINED)
def reductions(
    workload: Workload,
    ranks: int,
    zero: ZeroSection,
    kinds: Numerics,
    *,
    stage: ZeroStage,
    accumulates: bool,
    offloaded: bool,
) -> tuple[Reductions, ...]:
    """Return the reductions of the ranks that may hold the most memory: those whose part comes
    first, comes last, or overlaps the most parameters."""
    whole = parameters(workload)
    parts = partitions(workload, ranks)
    touched = [sum(sizes) for sizes in zip(*(each.touched for each in parts), strict=True)]
    owners = _owners(whole.optimizer_groups, parts)
    stretches = _stretches(whole.before, whole.layers, whole.after)
    found = []
    for rank in sorted({0, ranks - 1, touched.index(max(touched))}):
        bucket = _Bucket(
            rank=rank,
            owners=owners,
            size=zero.reduce_bucket_size,
            width=kinds.gradient,
            buffer_bytes=0 if offloaded else block(touched[rank] * kinds.gradient),
            keeps_others=stage == 1,
            freed_on_arrival=stage == 1 and accumulates,
            keeps_own=offloaded and accumulates,
            passes_through=offloaded,
        )
        found.append(bucket.replay(stretches))
    return tuple(found)


Owners = dict[str, tuple[int, int]]
"""The first and the last rank whose part holds a piece of a parameter, by its name."""


def _owners(groups: Iterable[Sequence[Sized]], parts: Iterable[Partition]) -> Owners:
    found: Owners = {}
    for group, part in zip(groups, parts, strict=True):
        start = 0
        for each in group:
            end = start + each.elements
            found[each.name] = start // part.part, (end - 1) // part.part
            start = end
    return found


def _stretches(
    before: Sequence[Sized], layers: Sequence[Sequence[Sized]], after: Sequence[Sized]
) -> list[list[Sized]]:
    """Return what trains in the order in which gradients arrive; the head's come with the last
    layer's."""
    *others, last = layers
    forward = [before, *others, [*last, *after]]
    return [[each for each in reversed(each) if each.trains] for each in reversed(forward)]


@cached_by_settings(*TRAINED)
def scatter_copies(
    workload: Workload, ranks: int, zero: ZeroSection, kinds: Numerics
) -> tuple[int, ...]:
    """Return the bytes of the largest contiguous copy in each stretch of backward under ZeRO-3.

    read: deepspeed/runtime/comm/coalesced_collectives.py, reduce_scatter_coalesced: one gradient
    that divides among the ranks is sent as it is.
    """
    whole = parameters(workload)
    copies = []
    inside: list[int] = []
    stretches = _stretches(whole.before, whole.layers, whole.after)
    for number, stretch in enumerate(stretches):
        largest = 0
        for each in stretch:
            if inside and sum(inside) + each.elements > zero.reduce_bucket_size:
                largest = max(largest, _contiguous(inside, ranks))
                inside = []
            inside.append(each.elements)
        if number == len(stretches) - 1:
            largest = max(largest, _contiguous(inside, ranks))
        copies.append(block(largest * kinds.gradient))
    return tuple(copies)


def _contiguous(inside: Sequence[int], ranks: int) -> int:
    alone = len(inside) == 1 and inside[0] % ranks == 0
    return 0 if alone else sum(ceil_div(each, ranks) * ranks for each in inside)


@dataclass(slots=True, kw_only=True)
class _Bucket:
    """One rank's backward pass."""

    rank: int
    owners: Owners
    size: int
    width: int
    buffer_bytes: int
    keeps_others: bool
    freed_on_arrival: bool
    """Whether earlier micro-batches have left a gradient, which goes when the next is in the
    bucket."""
    keeps_own: bool
    """Whether gradients are added up in host memory and stay to the end of backward: they are
    offloaded."""
    passes_through: bool
    """Whether gradients are taken to fp64 and to fp32 on their way: they are offloaded."""
    filled: int = 0
    inside: list[Sized] = field(default_factory=list)
    has_buffer: bool = False
    gained: int = 0
    freed: int = 0
    copied: int = 0

    def replay(self, stretches: Sequence[Sequence[Sized]]) -> Reductions:
        """Return the reductions of one backward pass over these stretches."""
        gained, freed, copies = [], [], []
        for number, stretch in enumerate(stretches):
            self.gained = self.freed = self.copied = 0
            for each in stretch:
                self._arrives(each)
            if number == len(stretches) - 1:
                self._reduce()
            gained.append(self.gained)
            freed.append(self.freed)
            copies.append(self.copied)
        return Reductions(gained=tuple(gained), freed=tuple(freed), copies=tuple(copies))

    def _arrives(self, each: Sized) -> None:
        if self.filled + each.elements > self.size:
            self._reduce()
        if self.passes_through and each.elements > self.size:
            self.copied = max(self.copied, block(each.elements * self.width))
        if self.freed_on_arrival and each.elements <= self.size:
            self.freed += each.elements * self.width
        self.inside.append(each)
        self.filled += each.elements

    def _reduce(self) -> None:
        self.copied = max(self.copied, self._copy_bytes())
        for each in self.inside:
            first, last = self.owners[each.name]
            mine = first <= self.rank <= last
            if mine and self.passes_through:
                self.copied = max(self.copied, block(each.elements * NORM_BYTES))
            if mine and not self.has_buffer:
                self.has_buffer = True
                self.gained += self.buffer_bytes
            if each.elements > self.size:
                self._settle(each, mine=mine)
        self.inside = []
        self.filled = 0

    def _settle(self, each: Sized, *, mine: bool) -> None:
        """Put a gradient that no bucket holds into the rank's buffer, or leave it as it is."""
        if mine and self.keeps_own:
            self.gained += each.elements * self.width
        elif mine and self.freed_on_arrival:
            self.freed += each.elements * self.width
        elif not mine and self.keeps_others and not self.freed_on_arrival:
            self.gained += each.elements * self.width

    def _copy_bytes(self) -> int:
        """Return the bytes of pieces of several ranks that are reduced together."""
        ranks = {rank for each in self.inside for rank in self.owners[each.name]}
        return block(self.filled * self.width) if len(ranks) > 1 else 0
