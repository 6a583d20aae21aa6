"""Allocations of a training loop in order, by stream, and what the allocator makes of them.

read: c10/cuda/CUDACachingAllocator.cpp: every stream has its own blocks. A block that one stream
allocated and another one used can be reused when the other stream has reached that point: ``free``
counts it as freed at once, its block is available later.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from planner.allocator.replay import Allocate, AllocatorEvent, Free, replay
from planner.tape.tensors import RENAMED, StorageEvent

COMPUTE, GATHER, REDUCE = range(3)
"""Numbers of the streams."""
Mark = Literal["load", "adapters", "forward", "backward", "update", "optimizer step"]
"""Ends of phases. ``update``: the optimizer has run. ``optimizer step``: the gradients are freed
too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Bytes that ``max_memory_allocated`` and ``max_memory_reserved`` would have returned."""

    allocated_bytes: int
    reserved_bytes: int
    last_bytes: int
    """Bytes that ``memory_allocated`` would have returned after the last step."""
    runs_out: bool
    """Whether memory ran out, if there was a capacity."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    allocated_bytes: int
    peak_allocated_bytes: int


@dataclass(slots=True)
class Timeline:
    """Allocations and frees in the order in which the host requests them."""

    events: list[AllocatorEvent] = field(default_factory=list)
    held: dict[Hashable, int] = field(default_factory=dict)
    """Number of the event that took each key's block: keys are reused while a block is waited
    for."""
    synchronized: set[int] = field(default_factory=set)
    """Numbers of the events before which the host has waited for the device."""
    marks: list[tuple[Mark, int]] = field(default_factory=list)
    """Ends of phases, step by step, with the number of events before each."""

    def take(self, key: Hashable, num_bytes: int, stream: int = COMPUTE) -> None:
        number = self.held[key] = len(self.events)
        self.events.append(Allocate(number, num_bytes, stream))

    def give(self, key: Hashable) -> None:
        self.events.append(Free(self.held.pop(key)))

    def synchronize(self) -> None:
        """Let the host wait for the device, as it does to read a loss; no block is held back
        then."""
        self.synchronized.add(len(self.events))

    def mark(self, phase: Mark) -> None:
        self.marks.append((phase, len(self.events)))

    def log(self, step: Hashable, logged: Iterable[StorageEvent]) -> None:
        """Replay a part of a tape's log; the allocator does not see that a block changes its
        owner."""
        for num_bytes, _, key, _ in logged:
            if key == RENAMED:
                continue
            if num_bytes > 0:
                self.take((step, key), num_bytes)
            elif num_bytes < 0:
                self.give((step, key))

    def snapshots(self) -> dict[Mark, Snapshot]:
        """Return the allocated bytes at the end of each phase of the first step, and the peak until
        then."""
        levels = replay(self.events, expandable_segments=False).allocated_bytes
        return {
            phase: Snapshot(levels[count - 1], max(levels[:count]))
            for phase, count in reversed(self.marks)
        }

    def phase_peaks(self) -> dict[Mark, int]:
        """Return the peak of allocated bytes within each phase of the last step."""
        levels = replay(self.events, expandable_segments=False).allocated_bytes
        spans = pairwise([("load", 0), *self.marks])
        return {
            phase: max(levels[start:stop]) for (_, start), (phase, stop) in spans if stop > start
        }

    def peaks(self, *, expandable_segments: bool, capacity_bytes: int | None = None) -> Peaks:
        """Return the peaks; with a capacity, cached blocks are returned to the driver before memory
        runs out."""
        at_once = replay(self.events, expandable_segments=expandable_segments)
        in_time = replay(
            waited_for(self.events, self.synchronized),
            expandable_segments=expandable_segments,
            capacity_bytes=capacity_bytes,
        )
        return Peaks(
            allocated_bytes=at_once.peak_allocated_bytes,
            reserved_bytes=in_time.peak_reserved_bytes,
            last_bytes=at_once.allocated_bytes[-1],
            runs_out=in_time.out_of_memory is not None,
        )


def waited_for(
    events: Iterable[AllocatorEvent], synchronized: Collection[int] = ()
) -> Iterator[AllocatorEvent]:
    """Yield the events so that a block of another stream is freed only when that stream takes the
    next one, or when the host has waited."""
    streams: dict[Hashable, int] = {}
    waiting: dict[int, list[AllocatorEvent]] = defaultdict(list)
    for number, event in enumerate(events):
        if number in synchronized:
            yield from (late for stream in list(waiting) for late in waiting.pop(stream))
        if isinstance(event, Allocate):
            streams[event.key] = event.stream
            yield event
            yield from waiting.pop(event.stream, ())
        elif streams[event.key] == COMPUTE:
            yield event
        else:
            waiting[streams[event.key]].append(event)
