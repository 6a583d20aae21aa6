"""The memory model under FSDP2 against PyTorch itself: two gloo ranks, every storage counted."""

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

pytest.importorskip("trl")
pytestmark = pytest.mark.long

TIME_LIMIT_S = 400
CASES = (
    ZeroCase(method="full", strategy="fsdp"),
    ZeroCase(method="full", strategy="fsdp", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="lora", strategy="fsdp"),
    ZeroCase(method="lora", strategy="fsdp", steps=2, checkpointing=True, loss="fused"),
    ZeroCase(method="qlora", strategy="fsdp"),
    ZeroCase(method="full", strategy="fsdp", pure=True),
    ZeroCase(method="full", strategy="fsdp", compute="fp32"),
)
EXACT = 0.0003
"""Relative: the counters of a step and the norms of gradients are scalars."""
ROUNDED = 0.01
"""Relative: the constants of a small 4-bit matrix are smaller than the allocator's blocks."""
PHASES: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer_step")
POINTS = [
    (number, phase)
    for number, case in enumerate(CASES)
    for phase in PHASES
    # On the CPU bitsandbytes copies packed weights once more, and multiplies by them otherwise.
    if case.method != "qlora" or phase not in ("load", "backward")
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The most loaded rank's bytes, by phase, of every case."""
    folder = tmp_path_factory.mktemp("fsdp")
    cases = folder / "cases.json"
    cases.write_text(json.dumps([asdict(case) for case in CASES]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(RANKS)),
            *("-m", "tests.oracle.fsdp_ranks", str(cases), str(folder)),
        ],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
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
def test_phase_is_what_fsdp_allocates(
    traced: list[dict[str, int]], number: int, phase: Phase
) -> None:
    tolerance = ROUNDED if CASES[number].method == "qlora" else EXACT
    predicted = CASES[number].predicted.total_bytes(phase)
    assert predicted == pytest.approx(traced[number][phase], rel=tolerance)
