"""A plan that somebody broke is one line on stderr and exit code 2, whatever is wrong with it."""

import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.launch_command import main
from tests.launcher.plans import full, parallel, plan_text

EVALUATION = {"every_steps": 2}
TRAINING = {"max_steps": 4}

CASES: list[tuple[str, str]] = [
    ("model: [", "plan.yaml:2: not YAML"),
    ("- a\n- b\n", "plan.yaml:1: holds"),
    (plan_text() + "method: full\n", "the key 'method' is given twice"),
    (plan_text().replace("method:", "methd:"), "unknown key 'methd'. Did you mean 'method'?"),
    (plan_text().replace("loss: fused\n", ""), "loss: this key is missing"),
    (
        plan_text(batch__micro_batch_size="two"),
        "batch.micro_batch_size: it should be a whole",
    ),
    (plan_text(batch__global_batch_size=5), "global_batch_size (5) must be micro_batch_size *"),
    (plan_text(parallel={**parallel("ddp"), "world_size": 3}), "world_size (3) must be num_nodes"),
    (
        plan_text(batch__sequence_length=1),
        "batch.sequence_length: it should be a whole number >= 2",
    ),
    (plan_text(batch__sequence_length=2**30), "sequence_length: it should be a whole number <= "),
    (plan_text(batch__micro_batch_size=2**53), "micro_batch_size: it should be a whole number <= "),
    (plan_text(batch__global_batch_size=2**63), "global_batch_size: it should be a whole number"),
    (plan_text(training={**TRAINING, "seed": 2**32}), "training.seed: it should be a whole number"),
    (plan_text(training={**TRAINING, "hang_limit_s": 10**12}), "training.hang_limit_s: it should"),
    (plan_text(training={"epochs": 1e9}), "training.epochs: it should be a number <= 1000000.0"),
    (plan_text(quantization={"quant_type": "nf4"}), "method lora must not have a quantization"),
    (plan_text(checkpoint_every=2), "checkpoint_every (2) says which layers are recomputed"),
    (plan_text(training={"epochs": 1.0, **TRAINING}), "training: give either epochs or max_steps"),
    (plan_text(training={**TRAINING, "seed": 2**32}), "training.seed: it should be a"),
    (
        plan_text(training={**TRAINING, "neftune_noise_alpha": -5}),
        "training.neftune_noise_alpha: it should be a number",
    ),
    (
        plan_text(training={**TRAINING, "report_to": ["tensorbord"]}),
        "training.report_to.0: it should be 'clearml'",
    ),
    (
        plan_text(training={**TRAINING, "evaluation": {**EVALUATION, "early_stop": 3}}),
        "unknown key 'training.evaluation.early_stop'. Did you mean 'early_stop_patience'?",
    ),
    (
        plan_text(training={**TRAINING, "evaluation": EVALUATION}),
        "training.evaluation needs samples that are kept out of training: set data.valid",
    ),
    (
        plan_text(**full(optimizer__lora_plus_ratio=16.0)),
        "optimizer.lora_plus_ratio needs adapters",
    ),
    (plan_text(schedule={"kind": "cosin", "warmup_ratio": 0.1}), "schedule.kind: it should be 'co"),
    (
        plan_text(
            precision={"compute": "fp16", "frozen": "fp16", "trainable": "fp32", "master": None}
        ),
        "precision.compute fp16 needs a GPU",
    ),
    (
        plan_text(hardware__network="100gb"),
        "hardware: no network is named '100gb'. Did you mean '100gbe'?",
    ),
]


@pytest.mark.parametrize(("text", "reason"), CASES)
def test_a_malformed_plan(
    text: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["launch", "plan.yaml"])
    assert main() == 2
    shown: Any = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert reason in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]
