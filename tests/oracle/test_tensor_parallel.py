"""The memory model under transformers' tensor parallelism against PyTorch itself: two gloo ranks,
every storage counted."""

from pathlib import Path

import pytest

from planner.plan.vocabulary import Method, Phase
from tests.oracle.traced_ranks import traced_cases
from tests.oracle.zero_cases import CUT, ZeroCase

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
    *(
        ZeroCase(method="full", strategy="tensor", model_type=name)
        for name in ("gemma2", "gemma3_text", "phi3", "glm4", "olmo2", "granite", "qwen3_5_text")
    ),
    *(
        ZeroCase(method="lora", strategy="tensor", model_type=name, steps=2, checkpointing=True)
        for name in ("gemma2", "gemma3_text", "phi3", "glm4", "olmo2", "granite", "qwen3_5_text")
    ),
    *(
        ZeroCase(method="lora", strategy="tensor", model_type=name, loss="fused")
        for name in ("cohere", "phi", "starcoder2", "ernie4_5", "exaone4", "olmo3")
    ),
)
METHODS: tuple[Method, ...] = ("full", "lora")
TRAINED = tuple(
    ZeroCase(
        method=method,
        strategy="tensor",
        compute="fp32",
        model_type=name,
        steps=2,
        small=True,
    )
    for name in CUT
    for method in METHODS
)
DROPPING = ZeroCase(
    method="lora",
    strategy="tensor",
    compute="fp32",
    checkpointing=True,
    small=True,
    dropout=0.5,
)
"""Each rank drops other elements of its part of an input, unlike one process."""
EXACT = 0.003
"""Relative: scalars, and where the gradient of a tied head meets that of the embeddings."""
LOSS_PPB, WEIGHT_PPB = 10_000, 1_000_000
"""In parts per billion, in fp32: sums over ranks are added up in another order."""
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


def test_each_architecture_trains_as_on_one_process(tmp_path: Path) -> None:
    """Full fine-tuning and LoRA; what ranks have whole stays the same on all."""
    cases = (*TRAINED, DROPPING)
    *found, dropping = traced_cases(
        "tests.oracle.tensor_losses", cases, tmp_path, ("loss", "weights", "unlike")
    )
    far = [case for case, each in zip(TRAINED, found, strict=True) if each["loss"] > LOSS_PPB]
    off = [case for case, each in zip(TRAINED, found, strict=True) if each["weights"] > WEIGHT_PPB]
    unlike = [case for case, each in zip(TRAINED, found, strict=True) if each["unlike"]]
    assert (far, off, unlike) == ([], [], [])
    assert dropping["loss"] > LOSS_PPB
    assert dropping["unlike"] == 0
