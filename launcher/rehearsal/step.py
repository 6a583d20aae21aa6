"""One training step as the launcher's trainer makes it: the largest micro-batch, then an update."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from launcher.compat.accelerate import forward_in_fp32
from launcher.compat.deepspeed import SharedAttention
from launcher.compat.trl import add_fused_head
from launcher.rehearsal.between_steps import rehearse_between_steps
from launcher.rehearsal.empty_model import (
    Recorder,
    build_rehearsal_model,
    packed_weights_made_whole,
)
from launcher.rehearsal.engine import MakeEngine, drop_gradients, plain_engine, trained
from launcher.rehearsal.phases import Between
from launcher.training.model_building import DTYPES, cast_trainable
from launcher.training.planned_trainer import activation_checkpointing
from launcher.training.text_model import backbone
from planner.plan.schema import Plan


def rehearse_step(
    plan: Plan,
    device: torch.device,
    recorder: Recorder,
    *,
    steps: int = 1,
    make_engine: MakeEngine = plain_engine,
    prepare: Callable[[Any], None] | None = None,
    between: Between = "nothing",
) -> None:
    """Load the model, make the steps, and leave what a trainer would save, phase by phase.

    ``prepare`` is called with the base model before it has storages; ``between`` says what of a run
    comes between the steps and the end.
    """
    with packed_weights_made_whole(), _sequences_shared(plan) as alone:
        _rehearse(plan, device, recorder, steps, make_engine, prepare, between, alone)


Alone = Callable[[], AbstractContextManager[None]]
"""Inside the context, a rank attends to its own sequences."""


@contextmanager
def _sequences_shared(plan: Plan) -> Iterator[Alone]:
    """Exchange tokens for heads in attention inside the block, where ranks share sequences."""
    if plan.parallel.sequence_parallel_size == 1:
        yield nullcontext
        return
    attention = SharedAttention(plan.attention)
    try:
        yield attention.alone
    finally:
        attention.leave()


def _rehearse(
    plan: Plan,
    device: torch.device,
    recorder: Recorder,
    steps: int,
    make_engine: MakeEngine,
    prepare: Callable[[Any], None] | None,
    between: Between,
    alone: Alone,
) -> None:
    with recorder.phase("load"):
        first = _first_device(plan, device)
        model = build_rehearsal_model(plan, first, recorder, prepare=prepare).train()
    base = model.get_base_model() if plan.adapter is not None else model
    _prepare(plan, model, base)
    _watch(model, base, recorder)
    engine = make_engine(plan, model, recorder)
    for _ in range(steps):
        with recorder.phase("forward"):
            loss = _forward(plan, engine.forward, base, device, recorder)
        with recorder.phase("backward"):
            engine.backward(loss)
        del loss
        recorder.switch("activations")
        if engine.step is not None:
            with recorder.phase("optimizer_step"), recorder.part("workspace"):
                engine.step()
        if plan.batch.gradient_accumulation_steps == 1:
            drop_gradients(model)
    drop_gradients(model)
    if between != "nothing":
        evaluate = partial(_forward, plan, engine.forward, base, device, recorder)
        save = engine.save if between == "evaluation and checkpoint" else None
        rehearse_between_steps(
            plan, model, device, recorder, evaluate=evaluate, alone=alone, save=save
        )
    with recorder.phase("save"):
        if plan.adapter is None and not plan.parallel.is_sharded:
            with recorder.part("workspace"):
                cast_trainable(model, plan.precision.compute)


def _first_device(plan: Plan, device: torch.device) -> torch.device:
    """Return where the model is loaded: ZeRO-3 itself moves the shards of an unquantized one, and
    FSDP those of any."""
    if plan.parallel.strategy == "fsdp" and device.type == "cuda":
        return torch.device("cpu")
    if plan.parallel.zero_stage == 3 and plan.quantization is None:
        return torch.device("cpu")
    return device


def _prepare(plan: Plan, model: Any, base: Any) -> None:
    """Set up checkpointing and the loss head as trl's trainer does before it trains."""
    checkpointing = activation_checkpointing(plan)
    if checkpointing["gradient_checkpointing"]:
        settings = checkpointing["gradient_checkpointing_kwargs"]
        layers = {
            key: settings.pop(key) for key in ("every_n_layers", "offload") if key in settings
        }
        base.gradient_checkpointing_enable(settings, **layers)
        if plan.adapter is not None:
            model.enable_input_require_grads()
    if plan.loss == "fused":
        add_fused_head(base)


def _watch(model: Any, base: Any, recorder: Recorder) -> None:
    """Tell the recorder where the loss begins and ends, and which tensors are gradients.

    Everything after the last hidden state is the loss; in backward, until that has its gradient.
    """

    def enter_loss(_module: Any, _inputs: Any, outputs: Any) -> None:
        recorder.switch("loss")
        hidden = outputs.last_hidden_state
        if hidden.requires_grad:
            hidden.register_hook(lambda _: recorder.switch("activations"))

    backbone(base).register_forward_hook(enter_loss)
    for parameter in trained(model):
        hooked: Any = parameter
        hooked.register_post_accumulate_grad_hook(
            lambda updated: recorder.assign(updated.grad, "gradients")
        )


def _forward(
    plan: Plan, model: Any, base: Any, device: torch.device, recorder: Recorder
) -> torch.Tensor:
    recorder.switch("activations")
    batch = _batch(plan, base.get_input_embeddings().num_embeddings, device)
    compute = DTYPES[plan.precision.compute]
    autocast = plan.precision.autocast
    forward = forward_in_fp32(model) if autocast else model
    extra = {"fused_lm_head": True} if plan.loss == "fused" else {}
    with torch.autocast(device.type, compute) if autocast else nullcontext():
        num_items = torch.ones((), dtype=torch.int64, device=device)
        output = forward(
            **batch,
            num_items_in_batch=num_items,
            use_cache=False,
            **extra,
        )
        fused = plan.loss == "fused"
        loss: torch.Tensor = -output.log_probs.sum() / num_items if fused else output.loss
        return loss


def _batch(plan: Plan, vocabulary: int, device: torch.device) -> dict[str, torch.Tensor | None]:
    """Return the largest micro-batch: a rank's part of its tokens, where ranks share them, as
    launcher/training/batches/shared_sequences.py makes it."""
    shared = plan.parallel.sequence_parallel_size
    shape = (plan.batch.micro_batch_size, plan.batch.sequence_length // shared)
    ids = torch.randint(vocabulary, shape, device=device)
    labels = ids.clone()
    if shared > 1:
        first = torch.distributed.get_rank() % shared * shape[1]
        return {
            "input_ids": ids,
            "position_ids": torch.arange(first, first + shape[1], device=device)[None],
            "labels": labels,
            "shift_labels": labels.clone(),
        }
    mask, positions = _mask_or_positions(plan, ids)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "labels": labels,
    }


def _mask_or_positions(plan: Plan, ids: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Return the mask of a padded batch, or the positions of a packed one; None for the other.

    Both have the shape of ``ids``. A batch of one is not padded, and transformers drops a mask of
    ones.
    """
    if plan.batch.packing:
        half = ids.shape[1] // 2
        places = torch.arange(ids.shape[1], device=ids.device) % max(1, half)
        return None, places.expand_as(ids).contiguous()
    if plan.batch.micro_batch_size == 1:
        return None, None
    mask = torch.ones_like(ids)
    mask[1:, -1] = 0
    return mask, None
