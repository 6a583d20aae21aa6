"""Allocations of a training loop in order, by stream, and what the allocator makes of them.

read: c10/cuda/CUDACachingAllocator.cpp: every stream has its own blocks. What one stream
allocated and another one used goes back when the other has got there: ``free`` counts it as
given back at once, its block can be had later.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from planner.allocator.replay import Allocate, Event, Free, replay
from planner.tape.tensors import RENAMED
from planner.tape.tensors import Event as Logged

COMPUTE, GATHER, REDUCE = range(3)
"""Streams."""
Mark = Literal["load", "adapters", "forward", "backward", "update", "optimizer step"]
"""``update``: the optimizer has run. ``optimizer step``: the gradients are gone too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Bytes that ``max_memory_allocated`` and ``max_memory_reserved`` would have said."""

    allocated_bytes: int
    reserved_bytes: int
    runs_out: bool
    """Whether memory ran out, where it had an end."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    allocated_bytes: int
    peak_allocated_bytes: int


@dataclass(slots=True)
class Timeline:
    """What is taken and given back, in the order in which the host asks for it."""

    events: list[Event] = field(default_factory=list)
    held: dict[Hashable, int] = field(default_factory=dict)
    """Which event took each key's block: keys come again while a block is waited for."""
    synchronized: set[int] = field(default_factory=set)
    """Before which events the host has waited for the device."""
    marks: list[tuple[Mark, int]] = field(default_factory=list)
    """Ends of phases, step by step: how many events lead to each."""

    def take(self, key: Hashable, num_bytes: int, stream: int = COMPUTE) -> None:
        number = self.held[key] = len(self.events)
        self.events.append(Allocate(number, num_bytes, stream))

    def give(self, key: Hashable) -> None:
        self.events.append(Free(self.held.pop(key)))

    def synchronize(self) -> None:
        """The host waits for the device, as it does to read a loss: nothing is held back then."""
        self.synchronized.add(len(self.events))

    def mark(self, phase: Mark) -> None:
        self.marks.append((phase, len(self.events)))

    def log(self, step: Hashable, logged: Iterable[Logged]) -> None:
        """A part of a tape's log; an owner's change is none of the allocator's business."""
        for num_bytes, _, key, _ in logged:
            if key == RENAMED:
                continue
            if num_bytes > 0:
                self.take((step, key), num_bytes)
            else:
                self.give((step, key))

    def snapshots(self) -> dict[Mark, Snapshot]:
        """Allocated bytes at the end of each phase of the first step, and the most until then."""
        levels = replay(self.events, expandable_segments=False).allocated_bytes
        return {
            phase: Snapshot(levels[count - 1], max(levels[:count]))
            for phase, count in reversed(self.marks)
        }

    def phase_peaks(self) -> dict[Mark, int]:
        """The most allocated bytes within each phase of the last step."""
        levels = replay(self.events, expandable_segments=False).allocated_bytes
        spans = pairwise([("load", 0), *self.marks])
        return {
            phase: max(levels[start:stop]) for (_, start), (phase, stop) in spans if stop > start
        }

    def peaks(self, *, expandable_segments: bool, capacity_bytes: int | None = None) -> Peaks:
        """With a capacity, cached blocks go back to the driver before memory runs out."""
        at_once = replay(self.events, expandable_segments=expandable_segments)
        in_time = replay(
            waited_for(self.events, self.synchronized),
            expandable_segments=expandable_segments,
            capacity_bytes=capacity_bytes,
        )
        return Peaks(
            allocated_bytes=at_once.peak_allocated_bytes,
            reserved_bytes=in_time.peak_reserved_bytes,
            runs_out=in_time.out_of_memory is not None,
        )


def waited_for(events: Iterable[Event], synchronized: Collection[int] = ()) -> Iterator[Event]:
    """Another stream's block can be had again only when the next one has been had, or when the
    host has waited."""
    streams: dict[Hashable, int] = {}
    waiting: dict[int, list[Event]] = defaultdict(list)
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
