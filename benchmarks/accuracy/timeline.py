"""Allocations of a training loop in order, by stream, and what the allocator makes of them.

read: c10/cuda/CUDACachingAllocator.cpp: every stream has its own blocks. What one stream
allocated and another one used goes back when the other has got there: ``free`` counts it as
given back at once, its block can be had later.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from planner.allocator import Allocate, Event, Free, replay
from planner.tensors import RENAMED
from planner.tensors import Event as Logged

Stream = Literal["compute", "gather", "reduce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Bytes that ``max_memory_allocated`` and ``max_memory_reserved`` would have said."""

    allocated_bytes: int
    reserved_bytes: int


@dataclass(slots=True)
class Timeline:
    """What is taken and given back, in the order in which the host asks for it."""

    events: list[tuple[Stream, Event]] = field(default_factory=list)
    where: dict[Hashable, Stream] = field(default_factory=dict)

    def take(self, key: Hashable, num_bytes: int, stream: Stream = "compute") -> None:
        self.where[key] = stream
        self.events.append((stream, Allocate(key, num_bytes)))

    def give(self, key: Hashable) -> None:
        self.events.append((self.where.pop(key), Free(key)))

    def log(self, step: Hashable, logged: Iterable[Logged]) -> None:
        """A part of a tape's log; an owner's change is none of the allocator's business."""
        for num_bytes, _, key, _ in logged:
            if key == RENAMED:
                continue
            if num_bytes > 0:
                self.take((step, key), num_bytes)
            else:
                self.give((step, key))

    def peaks(self, *, expandable_segments: bool) -> Peaks:
        return Peaks(
            allocated_bytes=self._allocated(expandable_segments=expandable_segments),
            reserved_bytes=self._reserved(expandable_segments=expandable_segments),
        )

    def _allocated(self, *, expandable_segments: bool) -> int:
        """The largest sum over streams at one moment."""
        by_stream: dict[Stream, list[Event]] = defaultdict(list)
        for stream, event in self.events:
            by_stream[stream].append(event)
        levels = {
            stream: iter(replay(events, expandable_segments=expandable_segments).allocated_bytes)
            for stream, events in by_stream.items()
        }
        now: dict[Stream, int] = dict.fromkeys(levels, 0)
        peak = 0
        for stream, _ in self.events:
            now[stream] = next(levels[stream])
            peak = max(peak, sum(now.values()))
        return peak

    def _reserved(self, *, expandable_segments: bool) -> int:
        """Every stream's segments, which stay: an unused block of another stream is waited for
        until the next one has been had."""
        by_stream: dict[Stream, list[Event]] = defaultdict(list)
        waiting: dict[Stream, list[Event]] = defaultdict(list)
        for stream, event in self.events:
            if stream == "compute":
                by_stream[stream].append(event)
            elif isinstance(event, Free):
                waiting[stream].append(event)
            else:
                by_stream[stream] += [event, *waiting.pop(stream, [])]
        return sum(
            replay(events, expandable_segments=expandable_segments).peak_reserved_bytes
            for events in by_stream.values()
        )
