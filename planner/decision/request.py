"""What the user asked for, checked, and the workloads and layouts it allows."""

from dataclasses import dataclass
from typing import Literal

from planner.base.units import format_gib
from planner.datasets.training_data import TrainingData
from planner.hardware.cluster import Cluster
from planner.models.adapter_targets import Targets
from planner.models.model_presets import ModelPreset
from planner.plan.vocabulary import (
    METHODS,
    AttentionName,
    Loss,
    Method,
    Offload,
    Precision,
    ZeroStage,
)
from planner.recipes.load_recipe import trained_by
from planner.recipes.recipe import Recipe

Prefer = Literal["tiers", "quality", "speed", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model, a machine, and what is pinned; everything left open is chosen."""

    model: ModelPreset
    cluster: Cluster
    prefer: Prefer = "tiers"
    recipe: Recipe | None = None
    method: Method | None = None
    sequence_length: int | None = None
    global_batch_size: int | None = None
    micro_batch_size: int | None = None
    zero_stage: ZeroStage | None = None
    offload: Offload | None = None
    """Nothing where it is open: then it is a last resort (planner/decision/choose.py)."""
    activation_checkpointing: bool | None = None
    checkpoint_every: int | None = None
    lora_rank: int | None = None
    lora_targets: Targets | None = None
    loss: Loss | None = None
    attention: AttentionName | None = None
    precision: Precision | None = None
    optimizer: str | None = None
    memory_limit_bytes: int | None = None
    data: TrainingData | None = None
    packing: bool | None = None
    price_per_gpu_hour: float | None = None

    @property
    def budget_bytes(self) -> int:
        """What a plan may use of one device: what is free, or less where a limit is set."""
        free = self.cluster.accelerator.free_bytes
        return free if self.memory_limit_bytes is None else min(free, self.memory_limit_bytes)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods open to choice, leanest first."""
        if self.recipe is not None:
            return (trained_by(self.recipe, self.method).method,)
        return METHODS if self.method is None else (self.method,)

    @property
    def compute(self) -> Precision:
        """What matrices are multiplied in: 16 bit where the device can do it at speed."""
        if self.precision is not None:
            return self.precision
        if self.cluster.accelerator.supports_bf16:
            return "bf16"
        return "fp32" if self.cluster.device == "cpu" else "fp16"


def describe_budget(request: Request) -> str:
    """For messages: ``23.45 GiB of each GPU``."""
    unit = "memory" if request.cluster.device == "cpu" else "each GPU"
    return f"{format_gib(request.budget_bytes)} GiB of {unit}"
