"""What a run does between two steps: the loss of held-out samples, an answer, a checkpoint."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from launcher.rehearsal.empty_model import Recorder
from launcher.training.model_building import DTYPES
from planner.plan.schema import Plan

NEW_TOKENS = 4
"""Tokens of the answer; each joins keys and values once, as all later ones do."""


def rehearse_between_steps(
    plan: Plan,
    model: Any,
    device: torch.device,
    recorder: Recorder,
    *,
    evaluate: Callable[[], Any],
    alone: Callable[[], AbstractContextManager[None]],
    save: Callable[[Path], object] | None,
) -> None:
    """Evaluate a micro-batch, answer a prompt as long as a sample, and write a checkpoint if there
    is something to ``save``; ``alone`` is the context in which a rank attends to its own
    sequences."""
    model.eval()
    with torch.no_grad():
        with recorder.phase("evaluation"):
            evaluate()
        with recorder.phase("generation"), alone():
            _answer(plan, model, device)
    model.train()
    if save is not None:
        with recorder.phase("checkpoint"), TemporaryDirectory(prefix="rehearsal-") as folder:
            save(Path(folder))


def _answer(plan: Plan, model: Any, device: torch.device) -> None:
    """Generate as launcher/training/callbacks.py does."""
    compute = DTYPES[plan.precision.compute]
    autocast = torch.autocast(device.type, compute) if plan.precision.autocast else nullcontext()
    prompt = torch.ones((1, plan.batch.sequence_length), dtype=torch.int64, device=device)
    with autocast:
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=True,
            synced_gpus=plan.parallel.shards_parameters,
        )
