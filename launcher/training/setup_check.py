"""Check that what runs is what was planned, on the live objects, once, before the first step.

Libraries change models unasked: an adapter is cast, DeepSpeed is skipped, a master copy appears.
Each of these costs memory that the plan did not count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from launcher.compat.accelerate import inner_optimizer
from launcher.compat.bitsandbytes import packed_elements
from launcher.compat.deepspeed import (
    ZERO_OPTIMIZERS,
    is_engine,
    num_sequence_ranks,
    num_sharded_elements,
    user_optimizer,
)
from launcher.compat.peft import is_of_adapter
from launcher.compat.transformers import kept_in_fp32
from launcher.training.fully_sharded import num_copies
from launcher.training.model_building import DTYPES
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import Plan
from planner.plan.vocabulary import Strategy

QUANTIZED_DTYPES = {"nf4": "uint8", "int8": "int8"}

PLAIN_TORCH = "torch"
DATA_PARALLEL = "ddp"
DEEPSPEED = "deepspeed"
FULLY_SHARDED = "fsdp"
TENSOR_PARALLEL = "tensor"

ENGINES: dict[Strategy, str] = {
    "single": PLAIN_TORCH,
    "ddp": DATA_PARALLEL,
    "zero1": DEEPSPEED,
    "zero2": DEEPSPEED,
    "zero3": DEEPSPEED,
    "fsdp": FULLY_SHARDED,
    "tensor": TENSOR_PARALLEL,
}


class PlanMismatchError(RuntimeError):
    """A difference between the plan and what the libraries have set up: a bug, here or there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is about to train, read from the live objects."""

    num_params: int
    """Parameters of the base model, quantized ones counted as the numbers they stand for."""
    trainable_params: int
    frozen_dtypes: tuple[str, ...]
    """Dtypes of frozen parameters but those that transformers keeps in fp32."""
    trainable_dtypes: tuple[str, ...]
    engine: str
    engine_class: str
    world_size: int
    copies: int
    """How often the whole of the parameters exists over all ranks that shard them."""
    sequence_ranks: int
    """Ranks that share each sequence."""
    zero_stage: int
    optimizer_class: str
    zero_optimizer_class: str | None
    autocast_dtype: str | None
    scales_gradients: bool
    """Whether losses are scaled, as in fp16, whose small gradients would vanish."""


def setup_of(trainer: Any) -> Setup:
    """Return the setup of a trainer whose training has begun."""
    named = list(trainer.model.named_parameters())
    trainable = [p for _, p in named if p.requires_grad]
    kept = kept_in_fp32(trainer.model)
    engine = trainer.model_wrapped
    kind = _engine_kind(engine)
    packed = packed_elements(trainer.model)
    return Setup(
        num_params=sum(
            packed.get(name) or num_elements(p) for name, p in named if not is_of_adapter(name)
        ),
        trainable_params=sum(map(num_elements, trainable)),
        frozen_dtypes=_dtypes(p for name, p in named if not p.requires_grad and name not in kept),
        trainable_dtypes=_dtypes(trainable),
        engine=kind,
        engine_class=type(engine).__name__,
        world_size=trainer.accelerator.num_processes,
        copies=num_copies(trainable[0]),
        sequence_ranks=num_sequence_ranks() if kind == DEEPSPEED else 1,
        zero_stage=engine.zero_optimization_stage() if kind == DEEPSPEED else 0,
        optimizer_class=_optimizer_class(trainer, kind),
        zero_optimizer_class=type(engine.optimizer).__name__ if kind == DEEPSPEED else None,
        autocast_dtype=_autocast_dtype(trainer, kind),
        scales_gradients=_scales_gradients(trainer, kind),
    )


def num_elements(parameter: Any) -> int:
    """Return how many numbers a parameter stands for on all ranks."""
    sharded = num_sharded_elements(parameter)
    return int(parameter.numel()) if sharded is None else sharded


def mismatches(plan: Plan, setup: Setup) -> list[str]:
    """Return one sentence per difference between plan and setup."""
    zero_stage = plan.parallel.zero_stage
    pairs: list[tuple[str, object, object]] = [
        ("parameters", plan.model.num_params, setup.num_params),
        ("trainable parameters", plan.model.trainable_params, setup.trainable_params),
        ("engine", ENGINES[plan.parallel.strategy], setup.engine),
        ("ranks", plan.parallel.world_size, setup.world_size),
        ("copies of the parameters", plan.parallel.copies, setup.copies),
        ("sequence ranks", plan.parallel.sequence_parallel_size, setup.sequence_ranks),
        ("ZeRO stage", zero_stage, setup.zero_stage),
        ("optimizer", optimizers()[plan.optimizer.name].class_name, setup.optimizer_class),
        ("trainable precision", (_name(DTYPES[plan.kept_trainable]),), setup.trainable_dtypes),
        ("autocast", _planned_autocast(plan), setup.autocast_dtype),
        ("gradient scaling", plan.precision.compute == "fp16", setup.scales_gradients),
        ("ZeRO optimizer", ZERO_OPTIMIZERS[zero_stage], setup.zero_optimizer_class),
    ]
    if plan.adapter is not None:
        frozen = {_name(DTYPES[plan.precision.frozen])}
        if plan.quantization is not None and plan.parallel.strategy != "fsdp":
            frozen.add(QUANTIZED_DTYPES[plan.quantization.quant_type])
        pairs.append(("frozen precision", tuple(sorted(frozen)), setup.frozen_dtypes))
    return [
        f"{what}: planned {planned}, found {actual}"
        for what, planned, actual in pairs
        if planned != actual
    ]


def require_as_planned(plan: Plan, setup: Setup) -> None:
    """Raise ``PlanMismatchError`` with all differences between plan and setup, if there is one."""
    differences = mismatches(plan, setup)
    if differences:
        raise PlanMismatchError(f"the setup is not the planned one: {'; '.join(differences)}")


def require_same_data(keys: Sequence[str]) -> None:
    """Raise ``PlanMismatchError`` if ranks train on different data, by their keys in rank order.

    Nodes prepare their data by themselves.
    """
    different = next((rank for rank, key in enumerate(keys) if key != keys[0]), None)
    if different is not None:
        raise PlanMismatchError(
            f"rank {different} has different data than rank 0 ({keys[different]}, {keys[0]}): the "
            "data files or the tokenizer differ between their nodes"
        )


def _engine_kind(engine: Any) -> str:
    if isinstance(engine, DistributedDataParallel):
        return DATA_PARALLEL
    if is_engine(engine):
        return DEEPSPEED
    if isinstance(engine, FSDPModule):
        return FULLY_SHARDED
    if (getattr(engine, "tp_size", None) or 1) > 1:
        return TENSOR_PARALLEL
    return PLAIN_TORCH


def _optimizer_class(trainer: Any, kind: str) -> str:
    if kind == DEEPSPEED:
        return type(user_optimizer(trainer.model_wrapped)).__name__
    return type(inner_optimizer(trainer.optimizer)).__name__


def _autocast_dtype(trainer: Any, kind: str) -> str | None:
    precision = trainer.accelerator.mixed_precision
    if kind == DEEPSPEED or precision == "no":
        return None
    return _name(DTYPES[precision])


def _scales_gradients(trainer: Any, kind: str) -> bool:
    if kind == DEEPSPEED:
        return bool(trainer.model_wrapped.fp16_enabled())
    return trainer.accelerator.scaler is not None


def _planned_autocast(plan: Plan) -> str | None:
    return _name(DTYPES[plan.precision.compute]) if plan.precision.autocast else None


def _dtypes(parameters: Iterable[torch.Tensor]) -> tuple[str, ...]:
    return tuple(sorted({_name(parameter.dtype) for parameter in parameters}))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
