"""The plan's optimizer for a model's trained parameters, as transformers' trainer makes it."""

from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer, TrainingArguments

from launcher.compat.transformers import trainer_optimizer
from planner.plan.schema import OptimizerSection


def optimizer_settings(section: OptimizerSection) -> dict[str, Any]:
    """Return the trainer's arguments that say which optimizer, and how it steps."""
    return {
        "optim": section.name,
        "learning_rate": section.learning_rate,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
    }


def build_optimizer(section: OptimizerSection, model: Any) -> torch.optim.Optimizer:
    """Return the optimizer without a trainer: a rehearsal has neither data nor a directory."""
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, **optimizer_settings(section))
    return trainer_optimizer(model, arguments)


def lora_plus_optimizer(
    model: Any, arguments: TrainingArguments, *, ratio: float
) -> torch.optim.Optimizer:
    """Return the optimizer with a higher learning rate for the B matrices, as peft groups them.

    ``ratio`` is that rate over the rate of the other parameters.
    """
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    made: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        kind,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=arguments.weight_decay,
        **settings,
    )
    return made
