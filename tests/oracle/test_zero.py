"""The memory model under ZeRO against DeepSpeed itself: two gloo ranks, every storage counted."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from planner.memory.micro_batch import stretches_of, tape_pass
from planner.plan.vocabulary import Phase
from tests.launcher.launching import REPOSITORY
from tests.oracle.zero_cases import RANKS, ZeroCase

pytest.importorskip("deepspeed")
pytest.importorskip("trl")
pytestmark = pytest.mark.long

TIME_LIMIT_S = 400
EXACT = 0.001
"""Relative: scalars of DeepSpeed's own are left out."""
BY_LAYER = 0.02
"""Relative: which gradient waits and which weight is gathered is known by the layer."""
ROUNDED = 0.02
"""Relative: the constants of a small 4-bit matrix are smaller than the allocator's blocks."""
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
    ZeroCase(method="full", strategy="zero3"),
    ZeroCase(method="full", strategy="zero3", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="lora", strategy="zero3"),
    ZeroCase(method="lora", strategy="zero3", checkpointing=True, loss="fused"),
    ZeroCase(method="full", strategy="zero1", pure=True),
    ZeroCase(method="full", strategy="zero2", steps=2, pure=True),
    ZeroCase(method="full", strategy="zero3", pure=True),
    ZeroCase(method="full", strategy="zero3", compute="fp32"),
)


POINTS = [
    (number, phase)
    for number, case in enumerate(CASES)
    for phase in PHASES
    # bitsandbytes multiplies by 4-bit weights otherwise on the CPU, and they are packed before
    # the trace begins.
    if case.method != "qlora" or phase not in ("load", "backward")
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The most loaded rank's bytes, by phase, of every case."""
    folder = tmp_path_factory.mktemp("zero")
    cases = folder / "cases.json"
    cases.write_text(json.dumps([asdict(case) for case in CASES]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(RANKS)),
            *("-m", "tests.oracle.zero_ranks", str(cases), str(folder)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]
    return [
        {phase: max(rank[phase] for rank in by_rank) for phase in PHASES}
        for by_rank in zip(*ranks, strict=True)
    ]


@pytest.fixture
def _loss_as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    tape_pass.cache_clear()
    stretches_of.cache_clear()
    monkeypatch.setattr("planner.forward.loss.TORCH_TILE_BYTES", {"forward": 0, "backward": 0})


@pytest.mark.usefixtures("_loss_as_on_cuda")
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
    predicted = case.predicted.total_bytes(phase)
    assert predicted == pytest.approx(traced[number][phase], rel=tolerance)
