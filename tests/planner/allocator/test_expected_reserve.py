"""What a run reserves by a few of its layers, against the replay of all of them."""

from typing import Any

import pytest

from planner.allocator.expected_reserve import expected_reserved_bytes
from planner.allocator.large_requests import reserved_bytes
from planner.allocator.pools import LARGE_SEGMENT_BYTES
from planner.allocator.replay import Allocate, Free, replay
from planner.allocator.training_steps import allocator_peak
from planner.base.units import MIB
from planner.decision.choose import decide
from planner.search.candidate import Candidate
from planner.workload.dtypes import numerics_of
from tests.planner.builders import cards, request

NEAR = 0.02
"""Largest difference between the two, relative."""
ASKED: dict[str, dict[str, Any]] = {
    "full": {"model": "qwen2.5-0.5b", "method": "full"},
    "one micro-batch": {"model": "gpt2", "method": "full", "global_batch_size": 2},
    "stock loss": {"model": "gemma-3-270m", "method": "lora", "loss": "standard"},
    "recomputed": {"model": "llama-3.2-1b", "method": "lora", "activation_checkpointing": True},
    "every third": {"model": "pythia-160m", "method": "full", "checkpoint_every": 3},
    "packed": {"model": "tinyllama-1.1b", "method": "qlora"},
    "mixture": {"model": "deepseek-v2-lite", "method": "qlora"},
}


def chosen(**asked: Any) -> Candidate:
    settings = {"sequence_length": 512, "micro_batch_size": 2, "global_batch_size": 8, **asked}
    return decide(request(cards(1, 80), **settings)).chosen


@pytest.mark.parametrize("name", ASKED)
def test_few_layers_reserve_what_all_do(name: str) -> None:
    best = chosen(**ASKED[name])
    given = best.workload, best.layout, best.worst_batch, numerics_of(best.workload, best.layout)
    whole = allocator_peak(*given, expandable_segments=True).peak_reserved_bytes
    assert expected_reserved_bytes(*given) == pytest.approx(whole, rel=NEAR)


def test_the_allocator_keeps_more_where_logits_find_no_room_between_two_steps() -> None:
    asked = {**ASKED["recomputed"], "loss": "standard", "sequence_length": 1024}
    expected = chosen(**asked).expected
    assert expected.cached_bytes > 0.1 * expected.peak_allocated_bytes


def test_large_requests_take_the_pages_that_the_replay_takes() -> None:
    sizes = [3 * MIB, 50 * MIB, 7 * MIB]
    requests = [*((number, size) for number, size in enumerate(sizes)), (1, 0), (3, 45 * MIB)]
    events = [Allocate(number, size) for number, size in enumerate(sizes)]
    replayed = replay([*events, Free(1), Allocate(3, 45 * MIB)], expandable_segments=True)
    assert reserved_bytes(requests) == replayed.peak_reserved_bytes
    assert replayed.peak_reserved_bytes % LARGE_SEGMENT_BYTES == 0


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_several_ranks_reserve_at_least_their_tensors(zero_stage: int) -> None:
    asked = request(
        cards(2, 80),
        model="qwen2.5-0.5b",
        method="full",
        zero_stage=zero_stage,
        sequence_length=512,
    )
    best = decide(asked).chosen
    assert 0 <= best.expected.cached_bytes < 0.2 * best.expected.peak_allocated_bytes
    assert best.memory.low_bytes <= best.expected.device_used_bytes <= best.memory.high_bytes


@pytest.mark.parametrize(
    ("model", "method"), [("baichuan2-13b", "lora"), ("phi-3-mini-4k-instruct", "full")]
)
def test_tensors_of_no_bytes_take_no_block(model: str, method: str) -> None:
    """One has no rotary tables, the other no row of the embedding that pads."""
    best = decide(request(cards(1, 180), model=model, method=method, sequence_length=512)).chosen
    assert best.expected.reserved_bytes >= best.expected.peak_allocated_bytes
