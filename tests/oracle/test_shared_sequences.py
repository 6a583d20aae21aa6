"""The memory of ranks that share sequences against DeepSpeed: two gloo ranks, every storage."""

from typing import Any

import pytest

from planner.plan.vocabulary import Phase
from tests.oracle.traced_ranks import traced_cases
from tests.oracle.zero_cases import ZeroCase

pytest.importorskip("deepspeed")
pytest.importorskip("trl")
pytestmark = pytest.mark.long

WITHIN = 0.01
"""Relative. Of the fused loss, whose positions are selected on a GPU and not on the CPU, 0.5 %."""
PHASES: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer_step")


def shared(**changes: Any) -> ZeroCase:
    return ZeroCase(sequence_ranks=2, sequence_length=1024, **changes)


CASES = (
    shared(method="full", strategy="zero3", micro_batch_size=1, checkpointing=True, loss="fused"),
    shared(method="lora", strategy="zero3", checkpointing=True),
    shared(method="lora", strategy="zero3", micro_batch_size=1, mixture=True),
    shared(method="full", strategy="zero1"),
    shared(method="lora", strategy="zero2", micro_batch_size=1, one_key=True),
)


@pytest.mark.usefixtures("loss_as_on_cuda")
def test_phases_are_what_deepspeed_allocates(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shared")
    traced = traced_cases("tests.oracle.zero_ranks", CASES, folder, PHASES)
    predicted = [{phase: case.predicted.total_bytes(phase) for phase in PHASES} for case in CASES]
    for expected, found in zip(predicted, traced, strict=True):
        assert expected == pytest.approx(found, rel=WITHIN)
