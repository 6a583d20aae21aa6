"""The trained adapter or model on disk: safetensors beside its tokenizer, whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

from launcher.model_building import cast_trainable
from planner.plan import Plan


def save_result(plan: Plan, trainer: Any, target: Path) -> None:
    """Called on every rank, because gathering shards is everyone's work; rank 0 writes.

    A full model is written in the precision its matrices were multiplied in.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    options: dict[str, Any] = {}
    if plan.parallel.zero_stage == 3:
        options["state_dict"] = trainer.model_wrapped._zero3_consolidated_16bit_state_dict(
            exclude_frozen_parameters=plan.adapter is not None
        )
    elif plan.adapter is None:
        cast_trainable(model, plan.precision.compute)
    if trainer.accelerator.is_main_process:
        _write(model, trainer.processing_class, target, options)
    trainer.accelerator.wait_for_everyone()


def _write(model: Any, tokenizer: Any, target: Path, options: dict[str, Any]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    model.save_pretrained(partial, **options)
    tokenizer.save_pretrained(partial)
    partial.rename(target)
