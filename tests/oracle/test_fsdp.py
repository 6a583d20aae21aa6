"""The memory model under FSDP2 against PyTorch itself: two gloo ranks, or four that have two copies
of the parameters, every storage counted."""

from pathlib import Path

import pytest

from planner.plan.vocabulary import Phase
from tests.oracle.traced_ranks import traced_cases
from tests.oracle.zero_cases import ZeroCase
from tests.torchao import needs_torchao

pytest.importorskip("trl")
pytestmark = pytest.mark.long

CASES = (
    ZeroCase(method="full", strategy="fsdp"),
    ZeroCase(method="full", strategy="fsdp", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="lora", strategy="fsdp"),
    ZeroCase(method="lora", strategy="fsdp", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="qlora", strategy="fsdp"),
    ZeroCase(method="qlora", strategy="fsdp", mixture=True, checkpointing=True),
    ZeroCase(method="lora", strategy="fsdp", mixture=True, on_experts=True),
    ZeroCase(method="qlora", strategy="fsdp", mixture=True, on_experts=True, checkpointing=True),
    ZeroCase(method="full", strategy="fsdp", pure=True),
    ZeroCase(method="full", strategy="fsdp", compute="fp32"),
    ZeroCase(method="full", strategy="fsdp", optimizer="schedule_free_adamw"),
    ZeroCase(method="lora", strategy="fsdp", towers=True, checkpointing=True),
    ZeroCase(method="qlora", strategy="fsdp", towers=True),
    ZeroCase(
        method="lora", strategy="fsdp", sequence_length=1024, checkpointing=True, tiled_mlp=True
    ),
)
COPIED = (
    ZeroCase(method="full", strategy="fsdp", copies=2, steps=2),
    ZeroCase(method="lora", strategy="fsdp", copies=2, checkpointing=True, loss="fused"),
)
COMPILED = (
    ZeroCase(method="full", strategy="fsdp", optimizer="adamw_torch_8bit"),
    ZeroCase(method="lora", strategy="fsdp", optimizer="adamw_torch_4bit"),
)
EXACT = 0.0004
"""Relative: the counters of a step, the norms of gradients and what scales a layer are scalars."""
ROUNDED = 0.01
"""Relative: the constants of a small 4-bit matrix are smaller than the allocator's blocks."""
PHASES: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer_step")
POINTS = [
    (number, phase)
    for number, case in enumerate(CASES)
    for phase in PHASES
    # On the CPU bitsandbytes copies packed weights once more, and multiplies by them otherwise,
    # which is the largest moment of a wide layer's forward pass.
    if case.method != "qlora"
    or phase == "optimizer_step"
    or (phase == "forward" and not case.towers)
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The most loaded rank's bytes, by phase, of every case."""
    folder = tmp_path_factory.mktemp("fsdp")
    return traced_cases("tests.oracle.fsdp_ranks", CASES, folder, PHASES)


@pytest.mark.usefixtures("loss_as_on_cuda")
@pytest.mark.parametrize(("number", "phase"), POINTS)
def test_phase_is_what_fsdp_allocates(
    traced: list[dict[str, int]], number: int, phase: Phase
) -> None:
    tolerance = ROUNDED if CASES[number].method == "qlora" else EXACT
    predicted = CASES[number].predicted.total_bytes(phase)
    assert predicted == pytest.approx(traced[number][phase], rel=tolerance)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The same of the cases with copies."""
    folder = tmp_path_factory.mktemp("copied")
    return traced_cases("tests.oracle.fsdp_ranks", COPIED, folder, PHASES)


@pytest.mark.usefixtures("loss_as_on_cuda")
@pytest.mark.parametrize("number", range(len(COPIED)))
def test_copies_of_shards_take_what_one_copy_takes(
    copied: list[dict[str, int]], number: int
) -> None:
    """Gradients that wait to be summed over the copies take no more than those that are."""
    predicted = {phase: COPIED[number].predicted.total_bytes(phase) for phase in PHASES}
    assert predicted == pytest.approx(copied[number], rel=EXACT)


@pytest.mark.usefixtures("loss_as_on_cuda")
@needs_torchao
def test_states_of_few_bits_are_those_of_shards(tmp_path: Path) -> None:
    """Updates are compiled in a run: tests/oracle/test_compiled_updates.py."""
    found = traced_cases("tests.oracle.fsdp_ranks", COMPILED, tmp_path, PHASES)
    for case, traced_bytes in zip(COMPILED, found, strict=True):
        predicted = {phase: case.predicted.total_bytes(phase) for phase in PHASES}
        assert predicted == pytest.approx(traced_bytes, rel=EXACT)
