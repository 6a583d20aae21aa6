"""The runs that are killed: methods and strategies on a tiny model, and a folder for each."""

import json
from pathlib import Path
from typing import Any

from tests.launcher.launching import write_plan, write_samples
from tests.launcher.plans import SIXTEEN_BIT, TWO_RANKS, full, parallel
from tests.launcher.tiny_model import write_tiny_model

ADAPTER = {"rank": 4, "alpha": 8, "dropout": 0.1, "target_modules": "all-linear"}
NF4 = {"quant_type": "nf4", "double_quant": True}
TRAINING = {"max_steps": 60, "save_steps": 3, "hang_limit_s": 30}
"""Fifteen epochs, with a checkpoint amid most of them."""
DDP = {"parallel": parallel("ddp"), **TWO_RANKS}
ZERO_2 = {"parallel": parallel("zero2"), "precision": SIXTEEN_BIT, **TWO_RANKS}
ZERO_3 = {**ZERO_2, "parallel": parallel("zero3")}
FSDP = {**ZERO_2, "parallel": parallel("fsdp")}
SHAPES: dict[str, dict[str, Any]] = {
    "lora": {"adapter": ADAPTER},
    "qlora": {"adapter": ADAPTER, "method": "qlora", "quantization": NF4},
    "full": full(),
    "lora-ddp": {"adapter": ADAPTER, **DDP},
    "full-ddp": full(**DDP),
    "lora-zero2": {"adapter": ADAPTER, **ZERO_2},
    "full-zero2": full(**ZERO_2),
    "full-zero3": full(**ZERO_3),
    "qlora-fsdp": {"adapter": ADAPTER, "method": "qlora", "quantization": NF4, **FSDP},
    "full-fsdp": full(**FSDP),
}


def write_folder(folder: Path, shape: str, checkpoint: Path) -> None:
    """Write a plan and its data into a new folder, and the model where it is not there yet."""
    if not checkpoint.exists():
        checkpoint.mkdir()
        write_tiny_model(checkpoint)
    folder.mkdir()
    write_samples(folder)
    changes = {**SHAPES[shape], "training": TRAINING, "model__source": str(checkpoint)}
    write_plan(folder, **changes)


def rows(folder: Path) -> list[tuple[float, ...]]:
    """Return what must be equal bit by bit of every logged step; the rest is time."""
    names = ("step", "loss", "grad_norm", "learning_rate")
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)[name] for name in names) for line in lines]
