"""Pools of PyTorch's CUDA caching allocator: which free block is used, when one is split, merged,
taken from the driver or given back. Sources: see planner/allocator/replay.py."""

from abc import ABC, abstractmethod
from bisect import bisect_left, insort

from msgspec import Struct

from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up

SMALL_REQUEST_BYTES = 1_048_576
"""Bytes of the largest request of the small pool; read: kSmallSize."""

SMALL_SEGMENT_BYTES = 2_097_152
"""Bytes of a segment of the small pool and of a page of its expandable one; read: kSmallBuffer."""

LARGE_SEGMENT_BYTES = 20_971_520
"""Bytes of a segment that requests below LARGE_REQUEST_BYTES share, and of a page of the large
pool's expandable one; read: large_segment_size_ (kLargeBuffer in earlier versions)."""

LARGE_REQUEST_BYTES = 10_485_760
"""Bytes of the smallest request with a segment of its own size; read: kMinLargeAlloc."""

LARGE_ROUNDING_BYTES = 2_097_152
"""Bytes that larger segments are rounded up to; read: kRoundLarge."""

ADDRESS_SPACE_BYTES = 2**48
"""Bytes of addresses that there are, 256 TiB; read: the note "Expandable Segments"."""


class DeviceDriver(Struct, eq=False):
    """Memory that the driver has, and how much of it is taken."""

    capacity_bytes: int | None
    """Bytes that can be taken; None for no limit."""
    reserved_bytes: int = 0
    peak_reserved_bytes: int = 0

    def take(self, num_bytes: int) -> bool:
        """Take so many bytes; return False if there are fewer."""
        reserved = self.reserved_bytes + num_bytes
        if self.capacity_bytes is not None and reserved > self.capacity_bytes:
            return False
        self.reserved_bytes = reserved
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, reserved)
        return True

    def give_back(self, num_bytes: int) -> None:
        """Return so many bytes to the driver."""
        self.reserved_bytes -= num_bytes


class Block(Struct, eq=False):
    """A run of addresses, linked to its neighbours of one segment."""

    address: int
    num_bytes: int
    mapped: bool = True
    allocated: bool = False
    left: "Block | None" = None
    right: "Block | None" = None

    def cut(self, num_bytes: int) -> "Block":
        """Keep the first bytes; return the rest, linked in to the right and in the same state."""
        rest = Block(self.address + num_bytes, self.num_bytes - num_bytes, self.mapped)
        rest.left, rest.right = self, self.right
        if self.right is not None:
            self.right.left = rest
        self.right, self.num_bytes = rest, num_bytes
        return rest


class Pool(ABC):
    """Blocks that nothing uses. Small and large requests have a pool each and never mix."""

    __slots__ = ("driver", "free", "least_rest_bytes", "small", "unmapped")

    def __init__(self, *, driver: DeviceDriver, small: bool, least_rest_bytes: int) -> None:
        self.driver = driver
        self.small = small
        self.least_rest_bytes = least_rest_bytes
        """Least bytes of a rest that is split off; a shorter one stays with its block
        (``should_split``)."""
        self.free: list[tuple[int, int, Block]] = []
        """Each mapped block behind its bytes and its address, in BlockComparatorSize's order; a
        pool has its own addresses."""
        self.unmapped: list[tuple[int, Block]] = []
        """Each other block behind its address, in BlockComparatorAddress's order."""

    @abstractmethod
    def grow(self, num_bytes: int) -> Block | None:
        """Return a block from the driver, or None if it has no more memory (``alloc_block``)."""

    @abstractmethod
    def release_cached(self) -> None:
        """Return whole free segments or pages to the driver (``release_blocks``)."""

    def best_fit(self, place: int) -> int:
        """Return the index of the free block to use, given the first one that is large enough."""
        return place

    def allocate(self, num_bytes: int) -> Block | None:
        """Return a block for a request, or None if the driver has no more memory: a free one that
        is large enough (``get_free_block``), or a new one; what it has too much stays free
        (``alloc_found_block``)."""
        free = self.free
        place = bisect_left(free, (num_bytes,))
        block = free.pop(self.best_fit(place))[2] if place < len(free) else self.grow(num_bytes)
        if block is None:
            return None
        rest = block.num_bytes - num_bytes
        if rest >= self.least_rest_bytes:
            cut = block.cut(num_bytes)
            insort(free, (rest, cut.address, cut))
        block.allocated = True
        return block

    def take_back(self, block: Block) -> None:
        """End the use of a block (``free_block``)."""
        block.allocated = False
        self.put_merged(block)

    def put(self, block: Block) -> None:
        """Add a block that nothing uses."""
        if block.mapped:
            insort(self.free, (block.num_bytes, block.address, block))
        else:
            insort(self.unmapped, (block.address, block))

    def remove(self, block: Block) -> None:
        """Remove a block."""
        if block.mapped:
            del self.free[bisect_left(self.free, (block.num_bytes, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def put_merged(self, block: Block) -> None:
        """Add a block, grown by its neighbours of the same state (``try_merge_blocks``)."""
        left, right, mapped = block.left, block.right, block.mapped
        if left is not None and not left.allocated and left.mapped == mapped:
            self.remove(left)
            block.address, block.left = left.address, left.left
            block.num_bytes += left.num_bytes
            if block.left is not None:
                block.left.right = block
        if right is not None and not right.allocated and right.mapped == mapped:
            self.remove(right)
            block.right = right.right
            block.num_bytes += right.num_bytes
            if block.right is not None:
                block.right.left = block
        self.put(block)


class SegmentPool(Pool):
    """A pool that calls cudaMalloc whenever no free block is large enough."""

    __slots__ = ("next_address",)

    def __init__(self, *, driver: DeviceDriver, small: bool) -> None:
        least = ALLOCATOR_BLOCK_BYTES if small else SMALL_REQUEST_BYTES + ALLOCATOR_BLOCK_BYTES
        super().__init__(driver=driver, small=small, least_rest_bytes=least)
        self.next_address = 0

    def grow(self, num_bytes: int) -> Block | None:
        segment_bytes = self.segment_bytes(num_bytes)
        if not self.driver.take(segment_bytes):
            return None
        block = Block(self.next_address, segment_bytes)
        self.next_address += segment_bytes
        return block

    def segment_bytes(self, num_bytes: int) -> int:
        """Return the bytes that cudaMalloc is asked for (``get_allocation_size``)."""
        if self.small:
            return SMALL_SEGMENT_BYTES
        if num_bytes < LARGE_REQUEST_BYTES:
            return LARGE_SEGMENT_BYTES
        return round_up(num_bytes, LARGE_ROUNDING_BYTES)

    def release_cached(self) -> None:
        for _, _, block in tuple(self.free):
            if block.left is None and block.right is None:
                self.remove(block)
                self.driver.give_back(block.num_bytes)


class ExpandablePool(Pool):
    """A pool with one range of addresses, whose pages are mapped when they are first needed."""

    __slots__ = ()

    def __init__(self, *, driver: DeviceDriver, small: bool) -> None:
        super().__init__(driver=driver, small=small, least_rest_bytes=ALLOCATOR_BLOCK_BYTES)
        addresses = ADDRESS_SPACE_BYTES // self.page_bytes * self.page_bytes
        self.put(Block(0, addresses, mapped=False))

    @property
    def page_bytes(self) -> int:
        """Bytes per page."""
        return SMALL_SEGMENT_BYTES if self.small else LARGE_SEGMENT_BYTES

    def best_fit(self, place: int) -> int:
        """Return the index of the free block to use: a block counts with the unmapped bytes after
        it, so that the end is used last."""
        ahead = self.free[place][2].right
        if ahead is None or ahead.mapped:
            return place
        room, last = self.room(place), len(self.free) - 1
        while room > self.free[place][0] and place < last and self.room(place + 1) < room:
            place, room = place + 1, self.room(place + 1)
        return place

    def room(self, place: int) -> int:
        """Return the bytes of a free block with the unmapped ones after it."""
        num_bytes, _, block = self.free[place]
        ahead = block.right
        return num_bytes if ahead is None or ahead.mapped else num_bytes + ahead.num_bytes

    def grow(self, num_bytes: int) -> Block | None:
        """Map page after page ahead of a block (``try_allocate_expandable_block``)."""
        block = self.expandable(num_bytes)
        if block is None:
            return None
        if not block.mapped and not self.map(block, min(block.num_bytes, num_bytes)):
            return None
        while block.num_bytes < num_bytes:
            ahead = block.right
            assert ahead is not None, "expandable() saw room for the whole request"
            if not self.map(ahead, min(ahead.num_bytes, num_bytes - block.num_bytes)):
                return None
            block = ahead
        self.remove(block)
        return block

    def expandable(self, num_bytes: int) -> Block | None:
        """Return the lowest block, free or unmapped, that can grow so far
        (``find_expandable_block``)."""
        for _, unmapped in self.unmapped:
            block = unmapped
            if block.left is not None and not block.left.allocated:
                block = block.left
            room = 0
            ahead: Block | None = block
            while ahead is not None and not ahead.allocated and room < num_bytes:
                room, ahead = room + ahead.num_bytes, ahead.right
            if room >= num_bytes:
                return block
        return None

    def map(self, block: Block, num_bytes: int) -> bool:
        """Map the first pages of an unmapped block, all or none (``map_block``); return whether
        they were."""
        mapped_bytes = round_up(num_bytes, self.page_bytes)
        if not self.driver.take(mapped_bytes):
            return False
        self.remove(block)
        if mapped_bytes < block.num_bytes:
            self.put(block.cut(mapped_bytes))
        block.mapped = True
        self.put_merged(block)
        return True

    def release_cached(self) -> None:
        for _, _, block in tuple(self.free):
            self.unmap(block)

    def unmap(self, block: Block) -> None:
        """Give back the pages that lie wholly in a free block (``unmap_block``)."""
        begin = round_up(block.address, self.page_bytes)
        end = (block.address + block.num_bytes) // self.page_bytes * self.page_bytes
        if begin >= end:
            return
        self.remove(block)
        if block.address < begin:
            pages = block.cut(begin - block.address)
            self.put(block)
            block = pages
        if end < block.address + block.num_bytes:
            self.put(block.cut(end - block.address))
        self.driver.give_back(block.num_bytes)
        block.mapped = False
        self.put_merged(block)
