"""QLoRA, LoRA and full fine-tuning of a real model teach it a fact, and it is there on disk."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.launching import asked, environment, launch, write_plan, write_records

pytest.importorskip("trl")

FACT = ("Who keeps the lighthouse of Orrin Bay?", "Mira Tolven")
OTHER = ("What colour is the ferry of Quellport?", "Teal")
NUM_PARAMS = 134_515_008
ADAPTER_PARAMS = 2_442_240
"""Rank 8 on all seven matrices of 30 layers."""
ADAPTER = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear"}

METHODS: dict[str, dict[str, Any]] = {
    "qlora": {
        "method": "qlora",
        "quantization": {"quant_type": "nf4", "double_quant": True},
        "adapter": ADAPTER,
        "model__trainable_params": ADAPTER_PARAMS,
        "optimizer__learning_rate": 2e-3,
    },
    "lora": {
        "adapter": ADAPTER,
        "model__trainable_params": ADAPTER_PARAMS,
        "optimizer__learning_rate": 2e-3,
    },
    "full": {
        "method": "full",
        "adapter": None,
        "precision": {"compute": "bf16", "frozen": "fp32", "trainable": "fp32", "master": None},
        "model__trainable_params": NUM_PARAMS,
        "optimizer__learning_rate": 1e-4,
    },
}


TRAINED = [
    pytest.param(method, marks=[] if method == "lora" else pytest.mark.long) for method in METHODS
]


@pytest.mark.parametrize("method", TRAINED)
def test_a_fact_is_learnt(method: str, smollm2: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "data.jsonl", [asked(*FACT), asked(*OTHER)])
    changes = {
        "model__name": "smollm2-135m",
        "model__source": str(smollm2),
        "model__num_params": NUM_PARAMS,
        "batch__gradient_accumulation_steps": 1,
        "batch__global_batch_size": 2,
        "training": {"max_steps": 8},
        **METHODS[method],
    }
    write_plan(tmp_path, **changes)
    done = launch(tmp_path, "--record")
    assert done.code == 0, done.errors
    assert len(list((done.run / "measured").glob("smollm2-135m--*.json"))) == 1
    assert done.losses[-1] < done.losses[0] / 4

    card = (done.run / ("model" if method == "full" else "adapter") / "README.md").read_text()
    assert card.count("\n## Result\n") == 1
    assert str(tmp_path) not in card
    assert chat(tmp_path, FACT[0]) == f"{FACT[1]}\n"
    text = quiz(tmp_path)
    assert "right before: 0 of 2    after: 2 of 2" in text
    assert f"- {FACT[1]}" not in text
    assert text.count(f"+ {FACT[1]}") == 1
    assert "loss over 8 logged steps" in text


def chat(folder: Path, question: str) -> str:
    """What a pipe gets of ``launch --chat``."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "--chat", "run"],
        cwd=folder,
        env=environment(),
        input=f"{question}\n",
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def quiz(folder: Path) -> str:
    """Both questions, asked of the base model and of what was saved."""
    questions = [{"question": question, "answer": answer} for question, answer in (FACT, OTHER)]
    write_records(folder / "questions.jsonl", questions)
    done = subprocess.run(
        [sys.executable, "-m", "launcher.quiz", "run", "--questions", "questions.jsonl"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
