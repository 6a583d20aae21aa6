"""The plan's optimizer for a model's trained parameters, as transformers' trainer makes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments

from launcher.compat.optimizers import compile_alike_in_every_step
from launcher.compat.transformers import trainer_optimizer
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import OptimizerSection

STEPS_WITHOUT_VARIANCE = 5
"""Steps in which RAdam divides by no variance yet, with the trainer's betas; read:
schedulefree/radam_schedulefree.py at 1.4.1, step (rho_t)."""


def optimizer_settings(section: OptimizerSection) -> dict[str, Any]:
    """Return the trainer's arguments that say which optimizer, and how it steps."""
    return {
        "optim": section.name,
        "learning_rate": section.learning_rate,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
    }


def build_optimizer(section: OptimizerSection, model: Any) -> torch.optim.Optimizer:
    """Return the optimizer without a trainer: a rehearsal has neither data nor a directory.

    It begins behind the steps that make less than all later ones.
    """
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, **optimizer_settings(section))
    if projects(section):
        arguments.optim_target_modules = projected_modules(model)
    prepare_compilation(section)
    optimizer = trainer_optimizer(model, arguments)
    begin_training(optimizer)
    for group in optimizer.param_groups:
        if "silent_sgd_phase" in group:
            group["k"] = STEPS_WITHOUT_VARIANCE
        if "update_proj_gap" in group:
            group["update_proj_gap"] = 1
    return optimizer


def prepare_compilation(section: OptimizerSection) -> None:
    """Set how the update is compiled, of an optimizer whose update is."""
    if optimizers()[section.name].is_compiled:
        compile_alike_in_every_step()


def projects(section: OptimizerSection) -> bool:
    """Return whether the optimizer keeps states of projections of gradients."""
    return optimizers()[section.name].kept_in == "projected"


def projected_modules(model: Any) -> list[str]:
    """Return the names of the modules whose gradients a low-rank optimizer projects: every
    ``nn.Linear`` but the head and routers."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and name.rpartition(".")[2] != "router"
    ]


def begin_training(optimizer: Any) -> None:
    """Let a new optimizer that averages weights begin with those that train.

    read: schedulefree/adamw_schedulefree.py at 1.4.1: step refuses to run before train was called,
    which leaves an empty state for each weight. torch/distributed/checkpoint/state_dict.py at 2.13,
    _init_optim_state, would take these for states, and load none.
    """
    train = getattr(optimizer, "train", None)
    if train is not None:
        train()
        optimizer.state.clear()


def separate_parts(optimizer: Any) -> None:
    """Give this rank's parts of matrices and what it has whole groups of their own, none without
    parameters.

    One kernel takes no mixture, as transformers knows, and peft's groups of LoRA+ have one; a
    checkpoint of all ranks' parts has no states to read an empty group from. read:
    transformers/trainer.py at 5.23.0, create_optimizer; torch/distributed/checkpoint/state_dict.py
    at 2.13, _unflatten_optim_state_dict.
    """
    groups = []
    for group in optimizer.param_groups:
        for is_part in (True, False):
            kind = [x for x in group["params"] if isinstance(x, DTensor) is is_part]
            groups += [{**group, "params": kind}] if kind else []
    optimizer.param_groups[:] = groups


def put_average(optimizer: Any) -> None:
    """Put the average where the weights are, if the optimizer averages them."""
    put = getattr(optimizer, "eval", None)
    if put is not None:
        put()


@contextmanager
def warm_up_by_schedule_alone(arguments: TrainingArguments) -> Iterator[None]:
    """Make optimizers without a warm-up of their own, beside that of the schedule.

    read: transformers/trainer_optimizer.py at 5.23.0, _get_schedule_free_optimizer, which hands on
    a share of all steps as a number of steps.
    """
    share, arguments.warmup_steps = arguments.warmup_steps, 0
    try:
        yield
    finally:
        arguments.warmup_steps = share


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
