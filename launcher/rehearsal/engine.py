"""Engines that turn a rehearsal's loss into an update: plain PyTorch, DDP, or DeepSpeed.

A trace follows plain PyTorch only. The other two run on a GPU, as the one rank of a group of one:
their buffers are real, and there is no other rank to share with.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from launcher.compat.deepspeed import shard
from launcher.compat.transformers import clip_cut_gradients
from launcher.rehearsal.empty_model import Recorder
from launcher.rehearsal.phases import cuts_layers, updates_alone
from launcher.training.deepspeed_config import deepspeed_config
from launcher.training.fully_sharded import reduce_between_copies
from launcher.training.fully_sharded import shard as shard_by_rows
from launcher.training.optimizer import build_optimizer
from launcher.training.process_group import join_alone
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True)
class Engine:
    """The calls of one training step."""

    forward: Any
    """Wrapped model, called with the batch."""
    backward: Callable[[torch.Tensor], None]
    """Called with the loss."""
    step: Callable[[], None] | None
    """Optimizer step; None if DeepSpeed's own would make it, which is not traced."""
    save: Callable[[Path], object] | None = None
    """Writes a checkpoint of the optimizer's states into a folder; None where none is there."""


class Update(NamedTuple):
    """An optimizer and the step that a trainer makes with it."""

    optimizer: torch.optim.Optimizer
    step: Callable[[], None]

    def save(self, folder: Path) -> None:
        """Write the states as transformers' trainer does."""
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")


MakeEngine = Callable[[Plan, Any, Recorder], Engine]
MakeUpdate = Callable[[Plan, Any, Recorder], Update | None]


def trained(model: Any) -> list[torch.nn.Parameter]:
    """Return the parameters that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def drop_gradients(model: Any) -> None:
    """Free the gradients of all trained parameters."""
    for parameter in trained(model):
        parameter.grad = None


def step_ends(plan: Plan) -> Iterator[bool]:
    """Yield whether a micro-batch ends a step: every second one where they are accumulated."""
    return cycle([True] if plan.batch.gradient_accumulation_steps == 1 else [False, True])


def update_with_states(plan: Plan, model: Any, recorder: Recorder) -> Update | None:
    """Make the optimizer with its states, as after a first step, and return its step.

    Gradients stay if earlier micro-batches of a step would have left some that are like the
    parameters.
    """
    with recorder.part("gradients"):
        _add_gradients(model)
    update = None
    if updates_alone(plan):
        with recorder.part("optimizer_states"):
            optimizer = build_optimizer(plan.optimizer, model)
            optimizer.step()
        update = Update(optimizer, partial(_update, plan, model, optimizer))
    if plan.batch.gradient_accumulation_steps == 1 or cuts_layers(plan):
        drop_gradients(model)
    return update


def update_from_the_start(plan: Plan, model: Any, _recorder: Recorder) -> Update:
    """Return the step of an optimizer that makes its states in its first one, as in training.

    Where states lie in the allocator's memory depends on when they are made.
    """
    optimizer, ends = build_optimizer(plan.optimizer, model), step_ends(plan)

    def step() -> None:
        if next(ends):
            _update(plan, model, optimizer)
            drop_gradients(model)

    return Update(optimizer, step)


def _torch_engine(model: Any, update: Update | None) -> Engine:
    if update is None:
        return Engine(model, torch.autograd.backward, None)
    return Engine(model, torch.autograd.backward, update.step, update.save)


def plain_engine(
    plan: Plan, model: Any, recorder: Recorder, *, make_update: MakeUpdate = update_with_states
) -> Engine:
    """Return one process of plain PyTorch; DeepSpeed's optimizer is predicted, not traced."""
    with recorder.phase(None):
        update = make_update(plan, model, recorder)
    return _torch_engine(model, update)


def pass_engine(plan: Plan, model: Any, recorder: Recorder) -> Engine:
    """Return forward and backward alone, beside the gradients of earlier micro-batches."""
    with recorder.phase(None), recorder.part("gradients"):
        if plan.batch.gradient_accumulation_steps > 1:
            _add_gradients(model)
    return Engine(model, torch.autograd.backward, None)


def data_parallel_engine(
    plan: Plan, model: Any, recorder: Recorder, *, make_update: MakeUpdate = update_with_states
) -> Engine:
    """Return PyTorch's DDP as accelerate sets it up.

    read: accelerate/accelerator.py at 1.15.0, prepare_model.
    """
    join_alone(plan)
    devices = [torch.cuda.current_device()] if plan.hardware.device == "cuda" else None
    with recorder.phase(None):
        wrapped = DistributedDataParallel(model, device_ids=devices)
        update = make_update(plan, model, recorder)
    return _torch_engine(wrapped, update)


def deepspeed_engine(plan: Plan, model: Any, recorder: Recorder) -> Engine:
    """Return DeepSpeed as accelerate sets it up.

    The optimizer is the plan's, on the CPU too where the states are offloaded
    (launcher/training/deepspeed_config.py). Where micro-batches are accumulated, every second one
    ends a step.

    read: accelerate/accelerator.py at 1.15.0, _prepare_deepspeed; utils/deepspeed.py,
    DeepSpeedEngineWrapper.backward.
    """
    import deepspeed

    join_alone(plan)
    config = deepspeed_config(plan)
    assert config is not None
    with recorder.phase("load"):
        if plan.parallel.zero_stage == 3 and plan.quantization is None:
            shard(model, config)
        optimizer: Any = build_optimizer(plan.optimizer, model)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    assert engine.zero_optimization_stage() == plan.parallel.zero_stage
    ends = step_ends(plan)

    def backward(loss: torch.Tensor) -> None:
        engine.set_gradient_accumulation_boundary(next(ends))
        engine.backward(loss)

    return Engine(engine, backward, engine.step, engine.save_checkpoint)


def fsdp_engine(plan: Plan, model: Any, recorder: Recorder) -> Engine:
    """Return PyTorch's FSDP as launcher/training/rank.py sets it up."""
    with recorder.phase("load"):
        shard_by_rows(plan, model, torch.device("cuda", torch.cuda.current_device()))
    update, ends = update_from_the_start(plan, model, recorder), step_ends(plan)

    def backward(loss: torch.Tensor) -> None:
        reduce_between_copies(plan, model, now=next(ends))
        torch.autograd.backward(loss)

    return Engine(model, backward, update.step, update.save)


def engine_of(plan: Plan) -> MakeEngine:
    """Return the engine of a plan for one device.

    For several devices it is plain PyTorch: the work of one rank without the others.
    """
    return plain_engine if plan.parallel.world_size > 1 else engine_of_rank(plan)


def engine_of_rank(plan: Plan, *, make_update: MakeUpdate = update_with_states) -> MakeEngine:
    """Return the engine of one rank among all of the plan's, or of a single process; DeepSpeed and
    FSDP make the optimizer's states themselves, whatever ``make_update`` does."""
    if plan.parallel.strategy == "fsdp":
        return fsdp_engine
    if plan.parallel.zero_stage:
        return deepspeed_engine
    wrapped = plan.parallel.strategy == "ddp"
    engine = data_parallel_engine if wrapped else plain_engine
    return partial(engine, make_update=make_update)


def _add_gradients(model: Any) -> None:
    for parameter in trained(model):
        parameter.grad = torch.zeros_like(parameter)


def _update(plan: Plan, model: Any, optimizer: torch.optim.Optimizer) -> None:
    largest = plan.optimizer.max_grad_norm
    if cuts_layers(plan):
        _held = clip_cut_gradients(model, largest)
    else:
        _held = torch.nn.utils.clip_grad_norm_(trained(model), largest)
    optimizer.step()
