"""The memory model under transformers' tensor parallelism against PyTorch itself: two gloo ranks,
every storage counted."""

import pytest

from planner.plan.vocabulary import Phase
from tests.oracle.traced_ranks import traced_cases
from tests.oracle.zero_cases import ZeroCase

pytest.importorskip("trl")
pytestmark = pytest.mark.long

CASES = (
    ZeroCase(method="full", strategy="tensor"),
    ZeroCase(method="full", strategy="tensor", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="full", strategy="tensor", compute="fp32", loss="fused", micro_batch_size=1),
    ZeroCase(method="full", strategy="tensor", pure=True),
    ZeroCase(method="full", strategy="tensor", model_type="qwen2"),
    ZeroCase(
        method="full",
        strategy="tensor",
        model_type="qwen2",
        steps=2,
        checkpointing=True,
        loss="fused",
    ),
    ZeroCase(method="full", strategy="tensor", model_type="qwen3", checkpointing=True),
    ZeroCase(method="full", strategy="tensor", sequence_length=512, loss="fused"),
    ZeroCase(method="lora", strategy="tensor"),
    ZeroCase(method="lora", strategy="tensor", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="lora", strategy="tensor", sequence_length=512, model_type="qwen2"),
    ZeroCase(method="lora", strategy="tensor", compute="fp32", loss="fused"),
)
EXACT = 0.003
"""Relative: scalars, and where the gradient of a tied head meets that of the embeddings."""
PHASES: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer_step")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The most loaded rank's bytes, by phase, of every case."""
    folder = tmp_path_factory.mktemp("tensor")
    return traced_cases("tests.oracle.tensor_ranks", CASES, folder, PHASES)


@pytest.mark.usefixtures("loss_as_on_cuda")
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_phase_is_what_a_rank_allocates(
    traced: list[dict[str, int]], number: int, phase: Phase
) -> None:
    predicted = CASES[number].predicted.total_bytes(phase)
    assert predicted == pytest.approx(traced[number][phase], rel=EXACT)
