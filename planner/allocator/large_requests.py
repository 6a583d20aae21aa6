"""What requests reserve. Where most layers are left out, small ones are only added up."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from planner.allocator.pass_trace import Change
from planner.allocator.pools import SMALL_REQUEST_BYTES, Block, DeviceDriver, ExpandablePool
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up

Request = tuple[Hashable, int]
"""Key of an allocation and its bytes; no bytes where it ends, or was none."""
Sizes = Sequence[int]
EMPTIED: Request = "torch.cuda.empty_cache", 0
"""What gives all free memory back to the driver."""


class Run(NamedTuple):
    """Addresses that are all used, or all free, in the pool of large requests."""

    num_bytes: int
    is_used: bool
    """Whether a request can take none of it: a hole as large as a small request serves none."""


def reserved_bytes(requests: Iterable[Request]) -> int:
    """Return the bytes that requests reserve in expandable segments."""
    memory = _Memory()
    memory.take(requests)
    return memory.driver.peak_reserved_bytes


def runs_after(requests: Iterable[Request]) -> tuple[Run, ...]:
    """Return the pages that large requests leave, in the order of addresses."""
    memory = _Memory()
    memory.take(requests)
    blocks = [block for pool, block in memory.used.values() if not pool.small]
    blocks += [block for _, _, block in memory.large.free]
    runs: list[Run] = []
    for block in sorted(blocks, key=lambda block: block.address):
        num_bytes = block.num_bytes
        is_used = block.allocated or num_bytes <= SMALL_REQUEST_BYTES
        if runs and runs[-1].is_used == is_used:
            num_bytes += runs.pop().num_bytes
        runs.append(Run(num_bytes, is_used))
    return tuple(runs)


def laid_out(name: Hashable, runs: Sequence[Run]) -> Iterator[Request]:
    """Yield requests that leave an empty memory so."""
    yield from allocated(name, [run.num_bytes for run in runs])
    yield from (((name, number), 0) for number, run in enumerate(runs) if not run.is_used)


class _Memory:
    """Both pools of one stream, as requests fill them."""

    def __init__(self) -> None:
        self.driver = DeviceDriver(capacity_bytes=None)
        self.large = ExpandablePool(driver=self.driver, small=False)
        self.small = ExpandablePool(driver=self.driver, small=True)
        self.used: dict[Hashable, tuple[ExpandablePool, Block]] = {}

    def take(self, requests: Iterable[Request]) -> None:
        """Meet the requests one by one."""
        used = self.used
        for key, num_bytes in requests:
            if num_bytes:
                pool = self.large if num_bytes > SMALL_REQUEST_BYTES else self.small
                block = pool.allocate(num_bytes)
                assert block is not None, "a driver without a limit has memory"
                used[key] = pool, block
            elif key in used:
                pool, block = used.pop(key)
                pool.take_back(block)
            elif key == EMPTIED[0]:
                self.large.release_cached()
                self.small.release_cached()


def split_by_pool(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Return the blocks of large requests, and the bytes of those of small ones."""
    large: list[int] = []
    small = 0
    for size in sizes:
        if size > SMALL_REQUEST_BYTES:
            large.append(round_up(size, ALLOCATOR_BLOCK_BYTES))
        else:
            small += round_up(size, ALLOCATOR_BLOCK_BYTES)
    return large, small


def most_small(changes: Iterable[Change]) -> int:
    """Return the bytes of small blocks when there are most of them."""
    levels = accumulate(size for size, _ in changes if abs(size) <= SMALL_REQUEST_BYTES)
    return max(levels, default=0)


def changed(name: Hashable, changes: Iterable[Change], least_bytes: int) -> Iterator[Request]:
    """Yield those among the changes of a log that are larger than ``least_bytes``."""
    return (
        ((name, number), max(num_bytes, 0))
        for num_bytes, number in changes
        if abs(num_bytes) > least_bytes
    )


def allocated(name: Hashable, sizes: Sizes, least_bytes: int = 0) -> Iterator[Request]:
    """Yield a request for each size that is larger than ``least_bytes``."""
    return (((name, number), size) for number, size in enumerate(sizes) if size > least_bytes)


def freed(name: Hashable, count: int) -> Iterator[Request]:
    """Yield the ends of so many requests."""
    return (((name, number), 0) for number in range(count))
