"""Host memory of adapters that begin as a part of their base, against torch's own account of it."""

from collections.abc import Callable

import pytest
import torch
from msgspec import structs
from torch.profiler import ProfilerActivity, profile

from launcher.adapters.parted_base import begun, without_part
from planner.memory.footprint import parting
from planner.plan.schema import AdapterSection
from planner.workload.dtypes import numerics
from planner.workload.parted_base import parting_bytes
from tests.oracle.small_models import SHAPES, workload_of

ROWS, COLUMNS = 160, 64  # the largest matrices of the model below
SIZE, FEWER = ROWS * COLUMNS, COLUMNS
UNSEEN = {"pissa": 4 * (4 * FEWER**2 + 7 * FEWER), "olora": 4 * 192 * FEWER, "pissa_niter_2": 0}
"""Bytes of LAPACK's workspace, of which torch sees what MKL does not take for itself."""


def most_allocated(work: Callable[[], object]) -> int:
    """Bytes of tensors at the largest moment."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = work()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()
    now = most = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes() if event.name() == "[memory]" else 0
        most = max(most, now)
    del result
    return most


def peak_of(weight: torch.Tensor, adapter: AdapterSection) -> int:
    """Bytes to decompose a matrix of 16 bit, or to part it."""
    weight = weight.bfloat16()
    pair = begun(weight, adapter, 1.0, torch.float32)  # so that MKL is there
    return max(
        most_allocated(lambda: begun(weight, adapter, 1.0, torch.float32)),
        most_allocated(lambda: without_part(weight, pair, 1.0)),
    )


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_2", "olora"])
def test_a_matrix_at_a_time_is_parted_on_the_host(init: str) -> None:
    work = workload_of(SHAPES["llama"], "lora", "bf16", 0.0, "all-linear")
    assert work.settings.adapter is not None
    adapter = structs.replace(work.settings.adapter, init=init)
    work = work.with_settings(adapter=adapter)
    kinds = numerics(method="lora", compute="bf16", zero_stage=0)
    measured = max(
        peak_of(torch.randn(shape), adapter) for shape in ((ROWS, COLUMNS), (COLUMNS, ROWS))
    )
    kept = work.trainable_params * kinds.trainable
    predicted = parting_bytes(work, kinds, on_device="cpu", is_first=True) - kept
    assert predicted - UNSEEN[init] <= measured <= predicted
    copied = parting_bytes(work, kinds, on_device="cuda", is_first=True)
    assert copied - predicted - kept == SIZE * 2
    assert parting(work, kinds, "cpu") == predicted + kept
    assert parting(work, kinds, "cuda") == 0
    if init == "pissa":
        other = parting_bytes(work, kinds, on_device="cpu", is_first=False)
        assert other == 3 * SIZE * 4 < predicted


def test_other_adapters_leave_the_base_as_it_is() -> None:
    work = workload_of(SHAPES["llama"], "lora", "bf16", 0.0, "all-linear")
    assert isinstance(work.settings.adapter, AdapterSection)
    kinds = numerics(method="lora", compute="bf16", zero_stage=0)
    assert parting_bytes(work, kinds, on_device="cuda", is_first=True) == 0
