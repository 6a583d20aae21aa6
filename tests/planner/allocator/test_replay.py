"""The replay of PyTorch's CUDA caching allocator: worked cases, PyTorch's own tests, laws."""

from collections.abc import Sequence
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.allocator.pools import (
    LARGE_REQUEST_BYTES,
    LARGE_SEGMENT_BYTES,
    SMALL_REQUEST_BYTES,
    SMALL_SEGMENT_BYTES,
)
from planner.allocator.replay import Allocate, AllocatorEvent, AllocatorPeak, Free, replay
from planner.base.units import ALLOCATOR_BLOCK_BYTES, KIB, MIB, round_up

BOTH = pytest.mark.parametrize("expandable_segments", [False, True])


def held(*sizes: int) -> list[AllocatorEvent]:
    """Allocations that stay, named 0, 1, 2..."""
    return [Allocate(key, num_bytes) for key, num_bytes in enumerate(sizes)]


def segments(events: Sequence[AllocatorEvent], capacity_bytes: int | None = None) -> AllocatorPeak:
    return replay(events, expandable_segments=False, capacity_bytes=capacity_bytes)


def expandable(
    events: Sequence[AllocatorEvent], capacity_bytes: int | None = None
) -> AllocatorPeak:
    return replay(events, expandable_segments=True, capacity_bytes=capacity_bytes)


# Worked by hand from the rules; sizes in the order they are asked for.


@pytest.mark.parametrize(
    ("num_bytes", "allocated_bytes"),
    [(0, 0), (1, 512), (512, 512), (513, 1024), (MIB, MIB), (3 * MIB + 1, 3 * MIB + 512)],
)
@BOTH
def test_a_request_is_rounded_up_to_512_bytes(
    expandable_segments: bool, num_bytes: int, allocated_bytes: int
) -> None:
    """round_size; raw_alloc gives nothing for nothing."""
    peak = replay(held(num_bytes), expandable_segments=expandable_segments)
    assert peak.peak_allocated_bytes == allocated_bytes
    assert (peak.peak_reserved_bytes == 0) == (num_bytes == 0)


@pytest.mark.parametrize(
    ("num_bytes", "segment_bytes", "expandable_bytes"),
    [
        (1, 2 * MIB, 2 * MIB),
        (MIB, 2 * MIB, 2 * MIB),
        (MIB + 1, 20 * MIB, 20 * MIB),
        (10 * MIB - 1, 10 * MIB, 20 * MIB),
        (10 * MIB - 512, 20 * MIB, 20 * MIB),
        (10 * MIB, 10 * MIB, 20 * MIB),
        (11 * MIB, 12 * MIB, 20 * MIB),
        (20 * MIB + 1, 22 * MIB, 40 * MIB),
        (41 * MIB, 42 * MIB, 60 * MIB),
    ],
)
def test_what_one_request_reserves(
    num_bytes: int, segment_bytes: int, expandable_bytes: int
) -> None:
    """get_allocation_size of the rounded request; whole pages of 2 or 20 MiB when expandable."""
    assert segments(held(num_bytes)).peak_reserved_bytes == segment_bytes
    assert expandable(held(num_bytes)).peak_reserved_bytes == expandable_bytes


def test_small_requests_share_segments_of_2_mib() -> None:
    """Three of 768 KiB: two fill 1.5 MiB of a segment, the third needs another."""
    sizes = [768 * KIB] * 3
    assert segments(held(*sizes)).reserved_bytes == (2 * MIB, 2 * MIB, 4 * MIB)
    assert expandable(held(*sizes)).reserved_bytes == (2 * MIB, 2 * MIB, 4 * MIB)


def test_an_expandable_segment_has_no_ends_inside() -> None:
    """Eight of 768 KiB take 6 MiB: four segments of 2 MiB, or three pages without a gap."""
    sizes = [768 * KIB] * 8
    assert segments(held(*sizes)).peak_reserved_bytes == 8 * MIB
    assert expandable(held(*sizes)).peak_reserved_bytes == 6 * MIB


def test_small_and_large_requests_never_share() -> None:
    """A large free block does not serve 1 MiB."""
    events: list[AllocatorEvent] = [Allocate("a", 8 * MIB), Free("a"), Allocate("b", MIB)]
    assert segments(events).reserved_bytes == (20 * MIB, 20 * MIB, 22 * MIB)
    assert expandable(events).reserved_bytes == (20 * MIB, 20 * MIB, 22 * MIB)


def test_a_rest_of_1_mib_stays_with_a_large_block() -> None:
    """should_split: the rest must exceed kSmallSize, unless segments are expandable.

    12 MiB freed, then 11: the rest of 1 MiB is not split off and counts as allocated.
    Then 11 MiB less 512 bytes: now the rest is.
    """
    whole: list[AllocatorEvent] = [Allocate("a", 12 * MIB), Free("a"), Allocate("b", 11 * MIB)]
    split: list[AllocatorEvent] = [
        Allocate("a", 12 * MIB),
        Free("a"),
        Allocate("b", 11 * MIB - 512),
    ]
    assert segments(whole).allocated_bytes == (12 * MIB, 0, 12 * MIB)
    assert segments(split).allocated_bytes == (12 * MIB, 0, 11 * MIB - 512)
    assert expandable(whole).allocated_bytes == (12 * MIB, 0, 11 * MIB)


def test_a_new_segment_keeps_a_short_rest_too() -> None:
    """11 MiB from a segment of 12 of its own: nothing is left over, 12 MiB are allocated."""
    assert segments(held(11 * MIB)).peak_allocated_bytes == 12 * MIB


def test_the_smallest_free_block_that_is_large_enough() -> None:
    """Free 30, 16 and 20 MiB. 14 must go to the 16, else 20 + 30 need another segment."""
    sizes = {"a": 30 * MIB, "b": 16 * MIB, "c": 20 * MIB}
    events: list[AllocatorEvent] = [Allocate(key, size) for key, size in sizes.items()]
    events += [Free(key) for key in sizes]
    events += [Allocate("d", 14 * MIB), Allocate("e", 20 * MIB), Allocate("f", 30 * MIB)]
    assert segments(events).peak_reserved_bytes == 66 * MIB


def test_the_lowest_address_of_equal_free_blocks() -> None:
    """Half of either small segment is free, and the lower one is filled.

    So the upper one is whole once its other half is freed, and can go back for 20 MiB.
    """
    events: list[AllocatorEvent] = [
        *held(MIB, MIB, MIB, MIB),
        Free(1),
        Free(3),
        Allocate(4, MIB),
        Free(2),
    ]
    peak = segments([*events, Allocate(5, 20 * MIB)], 22 * MIB)
    assert (peak.reserved_bytes[-1], peak.num_retries) == (22 * MIB, 1)


@BOTH
def test_free_neighbours_become_one_block(expandable_segments: bool) -> None:
    """Four of 5 MiB fill 20 MiB; the freed middle two serve 10 MiB less 512 bytes."""
    events = [*held(*[5 * MIB] * 4), Free(1), Free(2), Allocate(4, 10 * MIB - 512)]
    peak = replay(events, expandable_segments=expandable_segments)
    assert set(peak.reserved_bytes) == {20 * MIB}


@BOTH
def test_free_blocks_that_do_not_touch_stay_apart(expandable_segments: bool) -> None:
    """The first and the third of four do not serve 10 MiB less 512 bytes."""
    events = [*held(*[5 * MIB] * 4), Free(0), Free(2), Allocate(4, 10 * MIB - 512)]
    peak = replay(events, expandable_segments=expandable_segments)
    assert peak.peak_reserved_bytes == 40 * MIB


def test_segments_do_not_merge_and_expandable_ones_do() -> None:
    """PyTorch's note "Expandable Segments": a batch one larger finds no segment large enough.

    20 and 20 MiB, freed, then 40: a third segment, or the same pages.
    """
    events = [*held(20 * MIB, 20 * MIB), Free(0), Free(1), Allocate(2, 40 * MIB)]
    assert segments(events).peak_reserved_bytes == 80 * MIB
    assert expandable(events).peak_reserved_bytes == 40 * MIB


def test_an_expandable_segment_grows_by_what_its_free_end_lacks() -> None:
    """15 of 20 MiB used; 10 more use the free 5 and one page."""
    assert expandable(held(15 * MIB, 10 * MIB)).reserved_bytes == (20 * MIB, 40 * MIB)


def test_the_end_of_an_expandable_segment_is_used_last() -> None:
    """get_free_block: 6 MiB free within, 5 MiB at the end, which counts with all it can become.

    4 MiB take the 6; 5 MiB then take the end, and no page is mapped.
    """
    events: list[AllocatorEvent] = [*held(6 * MIB, 9 * MIB), Free(0), Allocate(2, 4 * MIB)]
    assert expandable([*events, Allocate(3, 5 * MIB)]).peak_reserved_bytes == 20 * MIB


def test_an_iteration_after_the_first_may_reserve_more() -> None:
    """5, 18 and 14 MiB: at first 5 + 14 share the segment of 20 and 18 have their own.

    Freed and asked again, best fit puts 5 into the 18, 18 into the 20, and 14 nowhere.
    """
    once = held(5 * MIB, 18 * MIB, 14 * MIB)
    again: list[AllocatorEvent] = [*once, *map(Free, range(3)), *once]
    assert segments(once).peak_reserved_bytes == 38 * MIB
    assert segments(again).peak_reserved_bytes == 52 * MIB
    assert expandable(again).peak_reserved_bytes == expandable(once).peak_reserved_bytes


def test_expandable_segments_may_reserve_more() -> None:
    """40, 12 and 10 MiB, of which the 12 stay; then 5 and 40.

    The 5 go into the segment of 10 that is free, so the 40 into their own. An expandable
    segment keeps its end for last: the 5 break the 40, which then need pages at the end.
    """
    events = [*held(40 * MIB, 12 * MIB, 10 * MIB), Free(2), Free(0)]
    events += [Allocate(3, 5 * MIB), Allocate(4, 40 * MIB)]
    assert segments(events).peak_reserved_bytes == 62 * MIB
    assert expandable(events).peak_reserved_bytes == 100 * MIB


# Running out of memory.


def test_whole_free_segments_go_back_before_memory_runs_out() -> None:
    """release_cached_blocks: of 40 MiB, 20 are cached and whole when 30 are asked for."""
    events: list[AllocatorEvent] = [Allocate("a", 20 * MIB), Free("a"), Allocate("b", 30 * MIB)]
    peak = segments(events, 40 * MIB)
    assert (peak.reserved_bytes[-1], peak.num_retries) == (30 * MIB, 1)
    assert peak.out_of_memory is None


def test_a_segment_in_use_does_not_go_back() -> None:
    """5 of 20 MiB hold the segment: 30 do not fit beside it in 40."""
    events = [*held(5 * MIB, 9 * MIB), Free(1), Allocate("b", 30 * MIB)]
    peak = segments(events, 40 * MIB)
    assert peak.out_of_memory is not None
    assert peak.out_of_memory.event_number == 3
    assert peak.out_of_memory.key == "b"
    assert peak.out_of_memory.allocated_bytes == 5 * MIB
    assert peak.out_of_memory.reserved_bytes == 20 * MIB
    assert peak.reserved_bytes == (20 * MIB,) * 3


def test_pages_go_back_one_by_one() -> None:
    """60 MiB in one piece, 5 MiB left in the middle page: the two others are unmapped.

    25 MiB at the start are freed, then 30 MiB at the end. The small pool then has 40 MiB.
    """
    events: list[AllocatorEvent] = [*held(25 * MIB, 5 * MIB, 30 * MIB), Free(0), Free(2)]
    small = [Allocate(("small", number), MIB) for number in range(41)]
    peak = expandable([*events, *small], 60 * MIB)
    assert peak.reserved_bytes[len(events)] == 22 * MIB
    assert peak.num_retries == 2
    assert peak.out_of_memory is not None
    assert peak.out_of_memory.event_number == len(events) + 40


def test_unmapped_pages_are_mapped_again_at_the_lowest_address() -> None:
    """find_expandable_block: after the first page went back, it comes back before the end grows.

    Of 60 MiB the first 40 are freed and unmapped for 2 MiB of small blocks; 20 and 18 MiB then
    take the two pages at the start.
    """
    events: list[AllocatorEvent] = [*held(40 * MIB, 20 * MIB), Free(0), Allocate(2, MIB), Free(2)]
    events += [Allocate(3, 20 * MIB), Allocate(4, 18 * MIB)]
    peak = expandable(events, 60 * MIB)
    assert peak.reserved_bytes == tuple(n * MIB for n in (40, 60, 60, 22, 22, 42, 60))
    assert peak.out_of_memory is None


# Cases of PyTorch's own tests, at 000e43cdff99 unless said otherwise.


@BOTH
def test_memory_stats_of_pytorch(expandable_segments: bool) -> None:
    """test/test_cuda.py, test_memory_stats: 256 floats make 1,024 active bytes."""
    events: list[AllocatorEvent] = [Allocate("tmp", 256 * 4), Free("tmp")]
    peak = replay(events, expandable_segments=expandable_segments)
    assert peak.allocated_bytes == (1024, 0)


@BOTH
def test_four_segments_of_pytorch(expandable_segments: bool) -> None:
    """test/test_cuda.py, test_allocate_in_thread_to_pool: one segment after four floats, and
    four after ten rounds of a, b and a + b of 20 MiB each (with expandable segments: two)."""
    events: list[AllocatorEvent] = [Allocate("rand", 16), Free("rand")]
    for _ in range(10):
        events += [Allocate(key, LARGE_SEGMENT_BYTES) for key in "abc"]
        events += [Free(key) for key in "abc"]
    peak = replay(events, expandable_segments=expandable_segments)
    assert peak.reserved_bytes[0] == 2 * MIB
    assert peak.peak_reserved_bytes == (2 + 3 * 20) * MIB


@BOTH
def test_1_mib_is_a_small_block_in_pytorch(expandable_segments: bool) -> None:
    """test/test_xpu.py, test_1mb_allocation_uses_small_block (an allocator of the same
    constants): two live tensors of 1 MiB, 4 MiB reserved."""
    events: list[AllocatorEvent] = [Allocate("a", MIB), Allocate("b0", MIB)]
    for number in range(5):
        events += [Allocate("clone", MIB), Allocate(f"b{number + 1}", MIB)]
        events += [Free("clone"), Free(f"b{number}")]
    peak = replay(events, expandable_segments=expandable_segments)
    assert (peak.allocated_bytes[-1], peak.reserved_bytes[-1]) == (2 * MIB, 4 * MIB)


@BOTH
def test_out_of_memory_retry_of_pytorch(expandable_segments: bool) -> None:
    """test/test_cuda.py, test_out_of_memory_retry: of two halves of the card (part of which the
    context has) the second fails while the first is there, and not once it is freed."""
    half = 8 * 1024 * MIB
    capacity = 2 * half - 300 * MIB
    a, b = Allocate("a", half), Allocate("b", half)
    failed = replay([a, b], expandable_segments=expandable_segments, capacity_bytes=capacity)
    assert failed.out_of_memory is not None
    assert failed.out_of_memory.key == "b"
    freed = replay(
        [a, Free("a"), b], expandable_segments=expandable_segments, capacity_bytes=capacity
    )
    assert freed.out_of_memory is None


# Laws.


@st.composite
def traces(draw: st.DrawFn, *, max_bytes: int = 64 * MIB) -> list[AllocatorEvent]:
    """Allocations of every kind, each freed at any later time or never."""
    sizes = st.one_of(
        st.integers(0, 4 * KIB),
        st.integers(1, 2 * MIB),
        st.integers(1, max_bytes),
        st.integers(1, max_bytes // MIB).map(lambda n: n * MIB),
        st.sampled_from([MIB, MIB + 1, LARGE_REQUEST_BYTES, LARGE_REQUEST_BYTES - 512]),
    )
    events: list[AllocatorEvent] = []
    live: list[int] = []
    for key in range(draw(st.integers(0, 60))):
        while live and draw(st.integers(0, 9)) < 4:
            events.append(Free(live.pop(draw(st.integers(0, len(live) - 1)))))
        events.append(Allocate(key, draw(sizes)))
        live.append(key)
    return events


def rounded(events: Sequence[AllocatorEvent]) -> list[int]:
    """Bytes of live requests after each event, each rounded up to 512."""
    live: dict[object, int] = {}
    series = []
    for event in events:
        if isinstance(event, Free):
            del live[event.key]
        else:
            live[event.key] = round_up(event.num_bytes, ALLOCATOR_BLOCK_BYTES)
        series.append(sum(live.values()))
    return series


@given(traces())
def test_reserved_covers_allocated_and_allocated_covers_the_requests(
    trace: list[AllocatorEvent],
) -> None:
    for peak in (segments(trace), expandable(trace)):
        requested = rounded(trace)
        assert len(peak.allocated_bytes) == len(peak.reserved_bytes) == len(trace)
        for reserved, allocated, request in zip(
            peak.reserved_bytes, peak.allocated_bytes, requested, strict=True
        ):
            assert reserved >= allocated >= request
        assert peak.peak_reserved_bytes == max(peak.reserved_bytes, default=0)
        assert peak.peak_allocated_bytes == max(peak.allocated_bytes, default=0)


@given(traces())
def test_expandable_segments_allocate_just_the_requests(trace: list[AllocatorEvent]) -> None:
    """Every rest of 512 bytes or more is split off."""
    assert list(expandable(trace).allocated_bytes) == rounded(trace)


@given(traces())
def test_without_a_limit_nothing_goes_back(trace: list[AllocatorEvent]) -> None:
    for peak in (segments(trace), expandable(trace)):
        assert list(peak.reserved_bytes) == sorted(peak.reserved_bytes)
        assert peak.num_retries == 0
        assert peak.out_of_memory is None


@given(traces())
def test_what_was_freed_serves_the_same_again(trace: list[AllocatorEvent]) -> None:
    """Expandable segments only: see test_an_iteration_after_the_first_may_reserve_more."""
    live = [event.key for event in trace if isinstance(event, Allocate)]
    freed = {event.key for event in trace if isinstance(event, Free)}
    ending: list[AllocatorEvent] = [Free(key) for key in live if key not in freed]
    once = expandable(trace)
    assert expandable([*trace, *ending, *trace]).peak_reserved_bytes == once.peak_reserved_bytes


@given(st.lists(st.integers(1, 64 * MIB), max_size=40))
def test_without_frees_expandable_segments_waste_less_than_a_page_a_pool(sizes: list[int]) -> None:
    """And so they reserve less than a page a pool more than other segments do."""
    blocks = [round_up(size, ALLOCATOR_BLOCK_BYTES) for size in sizes]
    small = sum(block for block in blocks if block <= SMALL_REQUEST_BYTES)
    large = sum(block for block in blocks if block > SMALL_REQUEST_BYTES)
    reserved = expandable(held(*sizes)).peak_reserved_bytes
    assert reserved == round_up(small, SMALL_SEGMENT_BYTES) + round_up(large, LARGE_SEGMENT_BYTES)
    pages = SMALL_SEGMENT_BYTES + LARGE_SEGMENT_BYTES
    assert reserved < segments(held(*sizes)).peak_reserved_bytes + pages


@given(st.lists(st.one_of(st.integers(1, 64 * MIB), st.none()), max_size=80))
def test_last_in_first_out_leaves_no_holes(moves: list[int | None]) -> None:
    """A stack, as activations of a forward pass: the peak of each pool, in whole pages."""
    events: list[AllocatorEvent] = []
    stack: list[int] = []
    live = {True: 0, False: 0}
    peak = dict(live)
    for number, size in enumerate(moves):
        if size is not None:
            events.append(Allocate(number, size))
            stack.append(number)
        elif stack:
            number = stack.pop()
            size = -(moves[number] or 0)
            events.append(Free(number))
        else:
            continue
        small = abs(size) <= SMALL_REQUEST_BYTES
        live[small] += (1 if size > 0 else -1) * round_up(abs(size), ALLOCATOR_BLOCK_BYTES)
        peak[small] = max(peak[small], live[small])
    assert expandable(events).peak_reserved_bytes == round_up(
        peak[True], SMALL_SEGMENT_BYTES
    ) + round_up(peak[False], LARGE_SEGMENT_BYTES)


@BOTH
@given(trace=traces(), percent=st.integers(0, 120))
def test_the_capacity_is_kept(
    expandable_segments: bool, trace: list[AllocatorEvent], percent: int
) -> None:
    """Never passed, and of no effect where the unlimited run stays within."""
    unlimited = replay(trace, expandable_segments=expandable_segments)
    capacity = unlimited.peak_reserved_bytes * percent // 100
    limited = replay(trace, expandable_segments=expandable_segments, capacity_bytes=capacity)
    assert limited.peak_reserved_bytes <= capacity
    done = len(limited.reserved_bytes)
    if limited.out_of_memory is None:
        assert done == len(trace)
    else:
        assert limited.out_of_memory.event_number == done
        assert limited.num_retries >= 1
    if percent >= 100:
        assert limited == unlimited


@given(traces())
def test_less_memory_than_the_requests_runs_out(trace: list[AllocatorEvent]) -> None:
    need = max(rounded(trace), default=0)
    for peak in (segments(trace, need - 1), expandable(trace, need - 1)):
        assert (peak.out_of_memory is None) == (need == 0)


@BOTH
def test_a_long_trace_takes_seconds(expandable_segments: bool) -> None:
    """200,000 events with 50,000 holes between live blocks."""
    events: list[AllocatorEvent] = [Allocate(key, 512 * (1 + key % 7)) for key in range(100_000)]
    events += [Free(key) for key in range(0, 100_000, 2)]
    events += [Allocate(key, 512 * (1 + key % 11)) for key in range(100_000, 150_000)]
    started = process_time()
    replay(events, expandable_segments=expandable_segments)
    assert process_time() - started < 10


def test_a_key_is_allocated_once_and_freed_once() -> None:
    with pytest.raises(ValueError, match="allocated twice"):
        segments([Allocate("a", 1), Allocate("a", 1)])
    with pytest.raises(ValueError, match="was not allocated"):
        segments([Free("a")])
    assert segments([Allocate("a", 1), Free("a"), Allocate("a", 1)]).out_of_memory is None
