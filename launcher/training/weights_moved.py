"""Whether training changed any weight: a rate of zero, or updates that rounding eats, leave all."""

from typing import Any

import torch
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
    """Return some numbers of each trained tensor, of this rank's part of it under ZeRO-3."""
    parts = [getattr(p, "ds_tensor", p).detach() for p in model.parameters() if p.requires_grad]
    return [
        part.flatten()[:: max(1, part.numel() // NUMBERS_PER_TENSOR)].to("cpu", copy=True)
        for part in parts
    ]


def unmoved_line(num_steps: int) -> str:
    return (
        f"warning: {num_steps} steps changed no weight that was looked at: the result is what it "
        "began with. Raise optimizer.learning_rate or the number of steps, or lower "
        "schedule.warmup_ratio"
    )
