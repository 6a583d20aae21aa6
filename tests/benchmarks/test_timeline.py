"""Streams keep their blocks apart, and a block of another stream is waited for."""

from benchmarks.accuracy.timeline import COMPUTE, GATHER, Timeline, waited_for
from planner.allocator.replay import Allocate, AllocatorEvent, Free
from planner.base.units import MIB

SIZE = 32 * MIB


def test_a_block_of_another_stream_comes_back_after_the_next_one() -> None:
    events: list[AllocatorEvent] = [
        Allocate(0, SIZE, GATHER),
        Free(0),
        Allocate(1, SIZE, GATHER),
        Free(1),
    ]
    assert list(waited_for(events)) == [*(events[n] for n in (0, 2, 1))]


def test_two_units_are_reserved_where_one_at_a_time_is_allocated() -> None:
    line = Timeline()
    for _ in range(3):
        line.take("unit", SIZE, GATHER)
        line.give("unit")
    peaks = line.peaks(expandable_segments=False)
    assert (peaks.allocated_bytes, peaks.reserved_bytes) == (SIZE, 2 * SIZE)


def test_one_stream_cannot_use_what_another_one_has_cached() -> None:
    line = Timeline()
    for stream in (COMPUTE, GATHER):
        line.take("block", SIZE, stream)
        line.give("block")
    peaks = line.peaks(expandable_segments=False)
    assert (peaks.allocated_bytes, peaks.reserved_bytes) == (SIZE, 2 * SIZE)


def test_a_full_card_takes_cached_blocks_of_any_stream_before_it_fails() -> None:
    line = Timeline()
    line.take("old", SIZE, GATHER)
    line.give("old")
    line.take("again", SIZE // 2, GATHER)
    line.take("new", 2 * SIZE)
    peaks = line.peaks(expandable_segments=False, capacity_bytes=3 * SIZE)
    assert not peaks.runs_out
    assert line.peaks(expandable_segments=False, capacity_bytes=SIZE).runs_out


def test_phases_are_told_apart() -> None:
    line = Timeline()
    line.take("weights", SIZE)
    line.mark("load")
    for _ in range(2):
        line.take("activations", 2 * SIZE)
        line.mark("forward")
        line.give("activations")
        line.mark("backward")
    first = line.snapshots()
    assert first["backward"].allocated_bytes == SIZE
    assert first["backward"].peak_allocated_bytes == 3 * SIZE
    assert line.phase_peaks()["backward"] == SIZE
