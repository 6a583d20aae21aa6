"""A run's model, loaded to answer: its base, its adapter, and the tokens at which it stops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from launcher.data.stop_tokens import stop_token_ids
from launcher.training.model_building import (
    DTYPES,
    attention_of,
    load_base,
    with_trained_adapter,
)
from planner.plan.schema import Plan


def load(plan: Plan, folder: Path) -> Any:
    """Return the model of a checkpoint folder, quantized as the plan says, to generate with.

    Without an adapter it is in the data type of its training's multiplications. A plan for GPUs
    runs on the CPU where there is none.
    """
    on_gpu = plan.hardware.device == "cuda" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if plan.adapter is not None:
        model = load_base(plan, folder, device)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[plan.precision.compute],
            attn_implementation=attention_of(plan),
            use_safetensors=True,
            trust_remote_code=False,
        )
    return (model if plan.quantization is not None else model.to(device)).eval()


def trained(plan: Plan, result: Path, base: Any) -> Any:
    """Return the trained model: an adapter is put onto the loaded ``base``, which it changes."""
    if plan.adapter is None:
        return load(plan, result)
    return with_trained_adapter(base, result).eval()


def stops_of(base: Path, new_stops: Sequence[int], tokenizer: Any) -> list[int]:
    """Return the ids at which answers end: where the base model's generation settings stop, and
    the marks with which the training ended answers; the tokenizer's own end if there are none."""
    return [*stop_token_ids(base), *new_stops] or [tokenizer.eos_token_id]
