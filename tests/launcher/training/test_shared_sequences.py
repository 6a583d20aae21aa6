"""Ranks that share sequences, on the CPU by gloo: they train as one process does."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.forked import Launcher
from tests.launcher.interrupted import EVALUATION, SIX_STEPS, evaluations
from tests.launcher.launching import Finished, write_plan, write_samples
from tests.launcher.plans import IN_FP32, TWO_RANKS, full, parallel

SAME_SUMS = 1e-5
"""Relative. The same numbers in fp32, in another order of addition."""
LOOKED_AT: dict[str, Any] = {
    "training": {**SIX_STEPS, "evaluation": EVALUATION},
    "data__validation_fraction": 0.25,
}


def train(folder: Path, checkpoint: Path, **changes: Any) -> Finished:
    folder.mkdir()
    write_samples(folder)
    write_plan(folder, model__source=str(checkpoint), **changes)
    done = Launcher().run(folder)
    assert done.code == 0, done.errors
    return done


def shared(strategy: str, ranks: int = 2) -> dict[str, Any]:
    return {**parallel(strategy, ranks), "sequence_parallel_size": 2}


def figures(done: Finished, name: str) -> list[float]:
    return [row[name] for row in done.metrics]


def looked_at(done: Finished) -> list[tuple[int, float, str]]:
    """Step, loss and answer of every evaluation."""
    rows = [json.loads(line) for line in evaluations(done).splitlines()]
    return [(row["step"], row["eval_loss"], row["answers"][0]["answer"]) for row in rows]


def require_same(found: Finished, expected: Finished) -> None:
    for name in ("loss", "grad_norm", "learning_rate", "epoch"):
        assert figures(found, name) == pytest.approx(figures(expected, name), rel=SAME_SUMS)
    assert found.read("report.json")["setup"]["sequence_ranks"] == 2


def test_two_ranks_of_one_sequence_are_one_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Losses, norms of gradients, evaluations with their answers; samples of odd lengths, and at
    the end of an epoch a micro-batch of fewer samples."""
    one = train(tmp_path / "one", tiny_checkpoint, **full(precision=IN_FP32, **LOOKED_AT))
    precision = {**IN_FP32, "master": "fp32"}
    two = train(
        tmp_path / "two",
        tiny_checkpoint,
        **full(parallel=shared("zero3"), precision=precision, **LOOKED_AT),
    )
    require_same(two, one)
    steps, losses, answers = zip(*looked_at(one), strict=True)
    found_steps, found_losses, found_answers = zip(*looked_at(two), strict=True)
    assert (found_steps, found_answers) == (steps, answers)
    assert found_losses == pytest.approx(losses, rel=SAME_SUMS)


IN_MIXED = {"compute": "bf16", "frozen": "bf16", "trainable": "bf16", "master": "fp32"}
SAME_IN_16_BIT = 1e-3
"""Relative: sums of rounded numbers, in another order."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "settings", "same"),
    [
        (
            {**parallel("zero3"), "offload": "all"},
            full(precision={**IN_FP32, "master": "fp32"}),
            SAME_SUMS,
        ),
        (
            parallel("zero2"),
            {
                "method": "qlora",
                "quantization": {"quant_type": "nf4", "double_quant": True},
                "precision": IN_MIXED,
            },
            SAME_IN_16_BIT,
        ),
    ],
    ids=["offloaded", "in 4 bit"],
)
def test_ranks_of_one_sequence_train_as_ranks_apart(
    tiny_checkpoint: Path,
    tmp_path: Path,
    layout: dict[str, Any],
    settings: dict[str, Any],
    same: float,
) -> None:
    settings = {"training": SIX_STEPS, **settings}
    apart = train(tmp_path / "apart", tiny_checkpoint, parallel=layout, **TWO_RANKS, **settings)
    together = train(
        tmp_path / "shared",
        tiny_checkpoint,
        parallel={**layout, "sequence_parallel_size": 2},
        **settings,
    )
    for name in ("loss", "grad_norm"):
        assert figures(together, name) == pytest.approx(figures(apart, name), rel=same)


@pytest.mark.long
def test_two_groups_of_two_ranks_train_adapters(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With the stock loss and recomputation; each group has two samples of every four."""
    settings = {"loss": "standard", "activation_checkpointing": True}
    one = train(tmp_path / "one", tiny_checkpoint, precision=IN_FP32, **settings)
    four = train(
        tmp_path / "four",
        tiny_checkpoint,
        parallel=shared("zero2", 4),
        precision={**IN_FP32, "master": "fp32"},
        **TWO_RANKS,
        **settings,
    )
    require_same(four, one)
