"""The range of a device: what published runs and readings had of the predicted peak."""

import pytest

from planner.base.units import MIB
from planner.decision.method_search import search_method
from planner.memory.device_memory import DeviceMemory, overheads
from planner.plan.vocabulary import METHODS, Method
from planner.workload.measured_ratios import peak_ratio
from tests.planner.builders import cards, request

FULL_RUNS = 3
"""Published runs of full fine-tuning whose tensors were counted, in presets/accuracy.yaml."""


def chosen_memory(method: Method, count: int) -> DeviceMemory:
    best = search_method(request(cards(count, 192), method=method), method).best
    assert best is not None
    return best.memory


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2])
def test_each_end_is_the_peak_times_both_ratios_where_a_pass_leaves_few_holes(
    method: Method, count: int
) -> None:
    memory = chosen_memory(method, count)
    assert memory.holes_beyond_ratio_bytes == 0
    error, ratio = peak_ratio(method), overheads().reserved_over_allocated
    nccl = overheads().nccl_mib
    beside = memory.context_bytes - (nccl.expected * MIB if count > 1 else 0)
    for total, first, second, links in (
        (memory.low_bytes, error.low, ratio.low, nccl.low),
        (memory.high_bytes, error.high, ratio.high, nccl.high),
    ):
        reserved = total - beside - (links * MIB if count > 1 else 0)
        assert reserved == round(memory.peak_allocated_bytes * first * second)


def test_the_high_end_counts_the_holes_between_logits_and_their_gradient() -> None:
    asked = request(
        cards(1, 80),
        model="qwen2.5-0.5b",
        method="lora",
        activation_checkpointing=True,
        loss="standard",
        sequence_length=1024,
        micro_batch_size=2,
    )
    best = search_method(asked, "lora").best
    assert best is not None
    vocabulary, error = best.workload.model.vocab_size, peak_ratio("lora")
    logits_in_fp32 = 2 * 1024 * vocabulary * 4
    reserved = best.memory.high_bytes - best.memory.context_bytes
    above_logits = reserved - error.high * (best.memory.peak_allocated_bytes + logits_in_fp32)
    assert 0 < above_logits < 0.03 * reserved  # what a layer frees of its own
    assert best.memory.holes_beyond_ratio_bytes > 0


def test_a_method_with_few_published_runs_takes_the_range_of_all() -> None:
    whole, qlora, lora = (peak_ratio(method) for method in ("full", "qlora", "lora"))
    assert whole.runs == qlora.runs + lora.runs + FULL_RUNS


@pytest.mark.parametrize("method", METHODS)
def test_the_range_is_in_order(method: Method) -> None:
    error = peak_ratio(method)
    assert 0.9 < error.low <= error.expected <= error.high < 1.1
    assert error.runs >= 5
    assert error.sources
