"""When gradients are reduced under ZeRO-1 and ZeRO-2, and what that holds or frees, by layer.

read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8. A gradient is copied into the bucket; one
that is larger stays where it is. The bucket is reduced when the next gradient has no room in it
(reduce_independent_p_g_buckets_and_remove_grads), the last one when backward has ended. Pieces that
belong to several ranks are copied into one tensor first, as many as a bucket holds and one more
(allreduce_and_scatter, allreduce_bucket), and where ranks share sequences into another in fp32;
then a rank copies the parameters that its part touches into a buffer, made at the first of them
(copy_grads_in_partition). ZeRO-1 leaves the others' large gradients where they are.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby, product
from operator import itemgetter

from msgspec import Struct, field

from planner.base.units import FP32_BYTES, block, ceil_div
from planner.memory.zero_1_2 import NORM_BYTES, Partition, partitions
from planner.memory.zero_3 import NORM_ELEMENTS
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import Offload, ZeroStage
from planner.workload.dtypes import Numerics
from planner.workload.parameters import Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload


class Reductions(Struct, frozen=True):
    """One rank's reductions in each stretch of backward: the head first, then the last layer, the
    embedding after all layers, and then what is reduced when backward has ended."""

    gained: tuple[int, ...]
    """Bytes that gradients come to hold in a stretch."""
    freed: tuple[int, ...]
    """Bytes that gradients give back in a stretch."""
    copies: tuple[int, ...]
    """Bytes of the largest copy in a stretch."""
    gained_before: tuple[int, ...]
    """Bytes that gradients have come to hold in a stretch before that copy is made: the one that it
    is made of still waits."""


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
    shares_sequences: bool = False,
) -> tuple[Reductions, ...]:
    """Return the reductions of the ranks that may hold the most memory: those whose part comes
    first, comes last, or overlaps the most parameters. Where gradients are offloaded, micro-batches
    before the last of a step keep them, and the last takes their norms."""
    whole = parameters(workload)
    parts = partitions(workload, ranks)
    touched = [sum(sizes) for sizes in zip(*(each.touched for each in parts), strict=True)]
    owners = _owners(whole.optimizer_groups, parts)
    stretches = _stretches(whole.before, whole.layers, whole.after)
    found = []
    most_loaded = sorted({0, ranks - 1, touched.index(max(touched))})
    ends_step = (False, True) if offloaded and accumulates else (True,)
    for rank, last in product(most_loaded, ends_step):
        bucket = _Bucket(
            rank=rank,
            owners=owners,
            size=zero.reduce_bucket_size,
            width=kinds.gradient,
            buffer_bytes=0 if offloaded else block(touched[rank] * kinds.gradient),
            keeps_others=stage == 1,
            freed_on_arrival=stage == 1 and accumulates,
            clones=offloaded,
            keeps_own=offloaded and not last,
            passes_through=offloaded and last,
            reduced_width=FP32_BYTES if shares_sequences else kinds.gradient,
        )
        found.append(bucket.replay(stretches))
    return tuple(found)


Owners = dict[str, dict[int, int]]
"""Elements of the pieces of each parameter, by its name and by the rank whose part holds one."""


def _owners(groups: Iterable[Sequence[Sized]], parts: Iterable[Partition]) -> Owners:
    found: Owners = {}
    for group, part in zip(groups, parts, strict=True):
        start, size = 0, part.part
        for each in group:
            end = start + each.elements
            found[each.name] = {
                rank: min(end, (rank + 1) * size) - max(start, rank * size)
                for rank in range(start // size, (end - 1) // size + 1)
            }
            start = end
    return found


def _stretches(
    before: Sequence[Sized], layers: Sequence[Sequence[Sized]], after: Sequence[Sized]
) -> list[list[Sized]]:
    """Return what trains in the order in which gradients arrive, the head's first."""
    forward = [before, *layers, after]
    return [[each for each in reversed(each) if each.trains] for each in reversed(forward)]


@cached_by_settings(*TRAINED)
def scatter_copies(
    workload: Workload, ranks: int, zero: ZeroSection, kinds: Numerics, *, offload: Offload
) -> tuple[int, ...]:
    """Return the bytes of the largest copies in each stretch of backward under ZeRO-3, and when it
    has ended.

    read: deepspeed/runtime/comm/coalesced_collectives.py, reduce_scatter_coalesced: one gradient
    that divides among the ranks is sent as it is. stage3.py, partition_grads: an offloaded slice
    comes back to the device, and is there in fp64 for its norm.
    """
    whole = parameters(workload)
    copies: list[int] = []
    inside: list[int] = []

    def reduced() -> int:
        slices = [ceil_div(each, ranks) for each in inside]
        num_bytes = _contiguous(inside, ranks) * kinds.gradient
        if offload == "none" or not slices:
            return block(num_bytes)
        norm = min(max(slices), NORM_ELEMENTS) * NORM_BYTES
        return block(num_bytes) + block(max(slices) * kinds.gradient) + block(norm)

    for stretch in _stretches(whole.before, whole.layers, whole.after):
        largest = 0
        for each in stretch:
            if inside and sum(inside) + each.elements > zero.reduce_bucket_size:
                largest = max(largest, reduced())
                inside = []
            inside.append(each.elements)
        copies.append(largest)
    return (*copies, reduced())


def _contiguous(inside: Sequence[int], ranks: int) -> int:
    alone = len(inside) == 1 and inside[0] % ranks == 0
    return 0 if alone else sum(ceil_div(each, ranks) * ranks for each in inside)


class _Bucket(Struct, kw_only=True, eq=False):
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
    clones: bool
    """Whether a gradient that is larger than the bucket is copied when it arrives."""
    keeps_own: bool
    """Whether the rank's gradients stay to the end of backward, beside their sums in host
    memory."""
    passes_through: bool
    """Whether gradients are taken to fp64 and to fp32 on their way to host memory."""
    reduced_width: int
    """Bytes per element of what is reduced."""
    filled: int = 0
    inside: list[Sized] = field(default_factory=list)
    has_buffer: bool = False
    gained: int = 0
    freed: int = 0
    copied: int = 0
    gained_before: int = 0

    def replay(self, stretches: Sequence[Sequence[Sized]]) -> Reductions:
        """Return the reductions of one backward pass over these stretches."""
        counted = []
        for stretch in (*stretches, None):
            self.gained = self.freed = self.copied = self.gained_before = 0
            for each in stretch or ():
                self._arrives(each)
            if stretch is None:
                self._reduce()
            counted.append((self.gained, self.freed, self.copied, self.gained_before))
        return Reductions(*zip(*counted, strict=True))

    def _copies(self, num_bytes: int, gained_before: int) -> None:
        if gained_before + num_bytes > self.gained_before + self.copied:
            self.copied, self.gained_before = num_bytes, gained_before

    def _arrives(self, each: Sized) -> None:
        if self.filled + each.elements > self.size:
            self._reduce()
        if self.clones and each.elements > self.size:
            self._copies(block(each.elements * self.width), self.gained)
        if self.freed_on_arrival and each.elements <= self.size:
            self.freed += each.elements * self.width
        self.inside.append(each)
        self.filled += each.elements

    def _reduce(self) -> None:
        before = self.gained
        self._copies(self._copy_bytes(), before)
        for each in self.inside:
            piece = self.owners[each.name].get(self.rank, 0)
            mine = piece > 0
            if mine and self.passes_through:
                self._copies(block(piece * NORM_BYTES), before)
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
        """Return the bytes of the most pieces that are reduced together: neighbours of one rank are
        one piece, and one alone is not copied but for its dtype."""
        pieces = [piece for each in self.inside for piece in self.owners[each.name].items()]
        cast = self.reduced_width if self.reduced_width > self.width else 0
        largest, together = 0, list[int]()
        for _, of_one_rank in groupby(pieces, key=itemgetter(0)):
            together.append(sum(elements for _, elements in of_one_rank))
            joined = self.width if len(together) > 1 else 0
            elements = sum(together)
            largest = max(largest, block(elements * joined) + block(elements * cast))
            if elements > self.size:
                together = []
        return largest
