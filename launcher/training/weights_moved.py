"""Whether training changed any weight: a rate of zero, or updates that rounding eats, leave all."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

NUMBERS_PER_TENSOR = 4096


class WeightsMoved(TrainerCallback):  # type: ignore[misc]
    """Keeps numbers of every trained tensor, spread over it, to compare them at the end."""

    def __init__(self) -> None:
        self._before: list[torch.Tensor] = []

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        self._before = trained_numbers(model)

    def moved(self, model: Any) -> bool:
        """Return whether any of them differs now on this rank."""
        pairs = zip(self._before, trained_numbers(model), strict=True)
        return any(not torch.equal(before, after) for before, after in pairs)


def trained_numbers(model: Any) -> list[torch.Tensor]:
    """Return some numbers of each trained tensor, of what this rank has of it."""
    parts = [_own_part(p) for p in model.parameters() if p.requires_grad]
    return [
        part.flatten()[:: max(1, part.numel() // NUMBERS_PER_TENSOR)].to("cpu", copy=True)
        for part in parts
    ]


def _own_part(parameter: Any) -> torch.Tensor:
    """Return what this rank has of a parameter; parts of FSDP may differ in their rows."""
    own: torch.Tensor = getattr(parameter, "ds_tensor", parameter).detach()
    return own.to_local() if isinstance(own, DTensor) else own


def unmoved_line(num_steps: int) -> str:
    return (
        f"warning: {num_steps} steps changed no weight that was looked at: the result is what it "
        "began with. Raise optimizer.learning_rate or the number of steps, or lower "
        "schedule.warmup_ratio"
    )
