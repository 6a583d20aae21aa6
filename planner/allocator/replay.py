"""Replay of PyTorch's CUDA caching allocator: what a run of allocations reserves.

Source: c10/cuda/CUDACachingAllocator.cpp of pytorch/pytorch at 001074d25084
(``DeviceCachingAllocator`` and the note "Expandable Segments"); the same functions of the
later revision in ataerabbi-meta/pytorch at ac90d12b0bd4 have the same rules for the default
pools. The functions here name theirs. Constants: c10/core/AllocatorConfig.h of torch 2.13.0
(cf30153c4c13), whose compiled allocator agrees event by event (tests/caching_allocator).

    request    bytes asked for, rounded up to 512
    block      a run of addresses handed out or free; free neighbours of a segment merge
    segment    what the driver gave in one piece: cudaMalloc, or an expandable range of
               addresses of which only some pages are mapped
    allocated  bytes of the blocks handed out, ``torch.cuda.memory_allocated``
    reserved   bytes taken from the driver, ``torch.cuda.memory_reserved``

Modelled: streams, each with blocks of its own over one driver, default settings
(``max_split_size_mb`` unlimited, no ``roundup_power2_divisions``, no garbage collection, no
memory fraction) with or without ``expandable_segments``. Not modelled: blocks held back by
``record_stream``, private pools of CUDA graphs, the finite range of addresses of an expandable
segment (9/8 of the card), and the addresses cudaMalloc picks: a later segment lies above an
earlier one here.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from planner.allocator.pools import (
    SMALL_REQUEST_BYTES,
    Block,
    DeviceDriver,
    ExpandablePool,
    Pool,
    SegmentPool,
)
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up


@dataclass(frozen=True, slots=True)
class Allocate:
    """A request, with the key that frees it."""

    key: Hashable
    num_bytes: int
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Free:
    """The end of an allocation."""

    key: Hashable


AllocatorEvent = Allocate | Free
"""One event of a sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """The request that could not be met, and what was held when it failed."""

    event_number: int
    """Index of the request in the sequence."""
    key: Hashable
    allocated_bytes: int
    reserved_bytes: int
    """Bytes that could not go back to the driver: the rest of the cache was released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorPeak:
    """What a sequence of events allocates and reserves."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    allocated_bytes: tuple[int, ...]
    """Bytes after each event, up to the one that ran out of memory."""
    reserved_bytes: tuple[int, ...]
    """Bytes taken from the driver after each event."""
    num_retries: int
    """Number of requests for which cached memory went back to the driver: num_alloc_retries."""
    out_of_memory: OutOfMemory | None


@dataclass(slots=True, kw_only=True)
class _Allocator:
    """Both pools of each stream over one driver (``DeviceCachingAllocator``)."""

    driver: DeviceDriver
    new_pool: Callable[[bool], Pool]
    """Factory of a pool, for small requests or for large ones."""
    pools: dict[tuple[int, bool], Pool] = field(default_factory=dict)
    used: dict[Hashable, tuple[Pool, Block] | None] = field(default_factory=dict)
    allocated_bytes: int = 0
    peak_allocated_bytes: int = 0
    num_retries: int = 0

    def step(self, event: AllocatorEvent) -> bool:
        """Replay one event; return False if the memory has run out."""
        if isinstance(event, Free):
            self.free(event.key)
            return True
        if event.key in self.used:
            raise ValueError(f"{event.key!r} is allocated twice without being freed")
        if event.num_bytes == 0:  # read: raw_alloc, a null pointer
            self.used[event.key] = None
            return True
        request_bytes = round_up(event.num_bytes, ALLOCATOR_BLOCK_BYTES)
        pool = self.pool(event.stream, small=request_bytes <= SMALL_REQUEST_BYTES)
        block = self.block(pool, request_bytes)
        if block is None:
            return False
        self.used[event.key] = pool, block
        self.allocated_bytes += block.num_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return True

    def pool(self, stream: int, *, small: bool) -> Pool:
        if (stream, small) not in self.pools:
            self.pools[stream, small] = self.new_pool(small)
        return self.pools[stream, small]

    def block(self, pool: Pool, num_bytes: int) -> Block | None:
        """Return a cached block, one from the driver, or one once the driver has all cached ones
        back (``malloc``)."""
        block = pool.allocate(num_bytes)
        if block is None:
            self.num_retries += 1
            for other in self.pools.values():
                other.release_cached()
            block = pool.allocate(num_bytes)
        return block

    def free(self, key: Hashable) -> None:
        """Free an allocation. Raises ValueError for a key that is not allocated."""
        if key not in self.used:
            raise ValueError(f"{key!r} is freed and was not allocated")
        held = self.used.pop(key)
        if held is not None:
            pool, block = held
            self.allocated_bytes -= block.num_bytes
            pool.take_back(block)

    def shortfall(self, number: int, event: AllocatorEvent) -> OutOfMemory:
        """Return what was held when the event could not be met."""
        return OutOfMemory(
            event_number=number,
            key=event.key,
            allocated_bytes=self.allocated_bytes,
            reserved_bytes=self.driver.reserved_bytes,
        )


def replay(
    events: Iterable[AllocatorEvent],
    *,
    expandable_segments: bool,
    capacity_bytes: int | None = None,
) -> AllocatorPeak:
    """Return the allocated and reserved bytes of a sequence of events.

    ``capacity_bytes`` is what the driver has for this process's allocator, so without the context;
    None never runs out. A key may be used again once it is freed. Raises ValueError for a key that
    is allocated twice, or freed without being allocated.

    >>> events = [Allocate("a", 1), Allocate("b", 3 * 2**20), Free("a")]
    >>> peak = replay(events, expandable_segments=False)
    >>> peak.allocated_bytes, peak.reserved_bytes
    ((512, 3146240, 3145728), (2097152, 23068672, 23068672))
    """
    kind = ExpandablePool if expandable_segments else SegmentPool
    driver = DeviceDriver(capacity_bytes=capacity_bytes)
    allocator = _Allocator(driver=driver, new_pool=lambda small: kind(driver=driver, small=small))
    allocated: list[int] = []
    reserved: list[int] = []
    out_of_memory = None
    for number, event in enumerate(events):
        if not allocator.step(event):
            out_of_memory = allocator.shortfall(number, event)
            break
        allocated.append(allocator.allocated_bytes)
        reserved.append(driver.reserved_bytes)
    return AllocatorPeak(
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_reserved_bytes=driver.peak_reserved_bytes,
        allocated_bytes=tuple(allocated),
        reserved_bytes=tuple(reserved),
        num_retries=allocator.num_retries,
        out_of_memory=out_of_memory,
    )
