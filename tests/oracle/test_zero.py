"""The memory model under ZeRO against DeepSpeed itself: two gloo ranks, every storage counted."""

import pytest

from planner.plan.vocabulary import Phase
from tests.oracle.traced_ranks import traced_cases
from tests.oracle.zero_cases import ZeroCase

pytest.importorskip("deepspeed")
pytest.importorskip("trl")
pytestmark = pytest.mark.long

EXACT = 0.001
"""Relative: scalars of DeepSpeed's own are left out."""
BY_LAYER = 0.02
"""Relative: which gradient waits and which weight is gathered is known by the layer."""
ROUNDED = 0.02
"""Relative: the constants of a small 4-bit matrix are smaller than the allocator's blocks."""
EXPERTS = 0.01
"""Relative: a layer's experts are most of what it gathers, and graphs keep them; adapters, which
come after the load, are counted in it."""
PHASES: dict[Phase, float] = {
    "load": EXACT,
    "forward": EXACT,
    "backward": BY_LAYER,
    "optimizer_step": EXACT,
    "save": EXACT,
}
CASES = (
    ZeroCase(method="full", strategy="zero1"),
    ZeroCase(method="full", strategy="zero1", steps=2),
    ZeroCase(method="full", strategy="zero2", checkpointing=True),
    ZeroCase(method="lora", strategy="zero2", steps=2),
    ZeroCase(method="qlora", strategy="zero2", checkpointing=True),
    ZeroCase(method="lora", strategy="zero2", mixture=True),
    ZeroCase(method="full", strategy="zero3"),
    ZeroCase(method="full", strategy="zero3", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="lora", strategy="zero3"),
    ZeroCase(method="lora", strategy="zero3", checkpointing=True, loss="fused"),
    ZeroCase(method="full", strategy="zero1", pure=True),
    ZeroCase(method="full", strategy="zero2", steps=2, pure=True),
    ZeroCase(method="full", strategy="zero3", pure=True),
    ZeroCase(method="full", strategy="zero3", compute="fp32"),
    ZeroCase(method="full", strategy="zero3", mixture=True),
    ZeroCase(method="lora", strategy="zero3", mixture=True),
    ZeroCase(method="lora", strategy="zero3", mixture=True, checkpointing=True),
    *(
        ZeroCase(
            method="full",
            strategy=strategy,
            sequence_length=1024,
            loss="fused",
            checkpointing=True,
            tiled_mlp=True,
        )
        for strategy in ("zero2", "zero3")
    ),
)


POINTS = [
    (number, phase)
    for number, case in enumerate(CASES)
    for phase in PHASES
    # bitsandbytes multiplies by 4-bit weights otherwise on the CPU. They are packed, and experts
    # stacked but for ZeRO-3, before the trace begins.
    if (case.method != "qlora" or phase not in ("load", "backward"))
    and (case.strategy == "zero3" or not case.mixture or phase != "load")
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The most loaded rank's bytes, by phase, of every case."""
    folder = tmp_path_factory.mktemp("zero")
    return traced_cases("tests.oracle.zero_ranks", CASES, folder, PHASES)


@pytest.mark.usefixtures("loss_as_on_cuda")
@pytest.mark.parametrize(("number", "phase"), POINTS)
def test_phase_is_what_deepspeed_allocates(
    traced: list[dict[str, int]], number: int, phase: Phase
) -> None:
    case = CASES[number]
    tolerance = PHASES[phase]
    if case.method == "qlora":
        tolerance = ROUNDED
    elif case.strategy == "zero3" and phase == "forward":
        tolerance = BY_LAYER
    if case.mixture and phase in ("load", "forward", "backward"):
        tolerance = EXPERTS
    predicted = case.predicted.total_bytes(phase)
    assert predicted == pytest.approx(traced[number][phase], rel=tolerance)
