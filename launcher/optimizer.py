"""The plan's optimizer over a model's trained parameters, as transformers' trainer makes it."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from planner.plan import OptimizerSection


def optimizer_settings(section: OptimizerSection) -> dict[str, Any]:
    """The trainer's arguments that say which optimizer, and how it steps."""
    return {
        "optim": section.name,
        "learning_rate": section.learning_rate,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
    }


def build_optimizer(section: OptimizerSection, model: Any) -> torch.optim.Optimizer:
    """Without the rest of a trainer: one that is rehearsed has neither data nor a directory."""
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, **optimizer_settings(section))
    made: torch.optim.Optimizer = _Creator(model, arguments).create_optimizer()
    return made


class _Creator:
    """What Trainer.create_optimizer reads of a trainer."""

    optimizer = None
    optimizer_cls_and_kwargs = None
    create_optimizer: Callable[..., Any] = Trainer.create_optimizer
    get_decay_parameter_names = Trainer.get_decay_parameter_names
    get_optimizer_cls_and_kwargs = staticmethod(Trainer.get_optimizer_cls_and_kwargs)

    def __init__(self, model: Any, arguments: TrainingArguments) -> None:
        self.model = model
        self.args = arguments
