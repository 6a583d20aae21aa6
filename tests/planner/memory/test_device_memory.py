"""The range of a device: what published runs and readings had of the predicted peak."""

import pytest

from planner.base.units import MIB
from planner.decision.method_search import search_method
from planner.memory.device_memory import DeviceMemory, overheads
from planner.plan.vocabulary import METHODS, Method
from planner.workload.measured_ratios import peak_ratio
from tests.planner.builders import cards, request


def chosen_memory(method: Method, count: int) -> DeviceMemory:
    best = search_method(request(cards(count, 192), method=method), method).best
    assert best is not None
    return best.memory


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2])
def test_each_end_is_the_peak_times_both_ratios(method: Method, count: int) -> None:
    memory = chosen_memory(method, count)
    error, ratio = peak_ratio(method), overheads().reserved_over_allocated
    nccl = overheads().nccl_mib
    beside = memory.context_bytes - (nccl.expected * MIB if count > 1 else 0)
    for total, first, second, links in (
        (memory.low_bytes, error.low, ratio.low, nccl.low),
        (memory.device_used_bytes, error.expected, ratio.expected, nccl.expected),
        (memory.high_bytes, error.high, ratio.high, nccl.high),
    ):
        reserved = total - beside - (links * MIB if count > 1 else 0)
        assert reserved == round(memory.peak_allocated_bytes * first * second)


def test_a_method_without_published_runs_takes_the_range_of_all() -> None:
    whole, qlora, lora = (peak_ratio(method) for method in ("full", "qlora", "lora"))
    assert whole.runs == qlora.runs + lora.runs


@pytest.mark.parametrize("method", METHODS)
def test_the_range_is_in_order(method: Method) -> None:
    error = peak_ratio(method)
    assert 0.9 < error.low <= error.expected <= error.high < 1.1
    assert error.runs >= 5
    assert error.sources
