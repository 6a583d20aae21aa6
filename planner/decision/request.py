"""The question that a plan answers: a model, a machine, and the options that are set.

The planner chooses every setting that no option fixes. planner/decision/request_checks.py refuses
options that contradict each other; planner/decision/requested_workload.py says which workloads and
layouts remain.
"""

from typing import Literal

from msgspec import Struct, structs

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
    Strategy,
    TrainingPrecision,
    ZeroStage,
    data_ranks,
)
from planner.recipes.load_recipe import load_recipe, trained_by
from planner.recipes.recipe import Recipe

Prefer = Literal["tiers", "quality", "speed", "memory"]


class Request(Struct, frozen=True, kw_only=True):
    """A model, a machine, and the options that are set; None lets the planner choose a setting."""

    model: ModelPreset
    cluster: Cluster
    prefer: Prefer = "tiers"
    recipe: Recipe | None = None
    method: Method | None = None
    sequence_length: int | None = None
    global_batch_size: int | None = None
    micro_batch_size: int | None = None
    strategy: Strategy | None = None
    zero_stage: ZeroStage | None = None
    sequence_parallel_size: int | None = None
    """Ranks that share one sequence; None lets none share one but as a last resort."""
    offload: Offload | None = None
    """Offload to the host; None allows it as a last resort (planner/decision/last_resorts.py)."""
    activation_checkpointing: bool | None = None
    checkpoint_every: int | None = None
    activation_offloading: bool | None = None
    """Whether inputs of recomputed layers wait in host memory; None allows it as a last resort."""
    tiled_mlp: bool | None = None
    """Whether MLPs run tile by tile; None allows it as a last resort."""
    lora_rank: int | None = None
    lora_dropout: float | None = None
    lora_targets: Targets | None = None
    lora_init: str | None = None
    """What adapters begin as; None for the recipe's beginning."""
    loss: Loss | None = None
    attention: AttentionName | None = None
    precision: TrainingPrecision | None = None
    optimizer: str | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    memory_limit_bytes: int | None = None
    data: TrainingData | None = None
    packing: bool | None = None
    price_per_gpu_hour: float | None = None

    @property
    def budget_bytes(self) -> int:
        """Bytes that a plan may use of one device: what is free, or less where a limit is set."""
        free = self.cluster.accelerator.free_bytes
        return free if self.memory_limit_bytes is None else min(free, self.memory_limit_bytes)

    @property
    def sequence_ranks(self) -> int:
        """Number of ranks that share one sequence; 1 where none share one unasked."""
        return self.sequence_parallel_size or 1

    @property
    def data_ranks(self) -> int:
        """Number of ranks, or of groups that share one sequence, with samples of their own."""
        return data_ranks(self.strategy, self.cluster.world_size, self.sequence_ranks)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods to choose from, leanest first; those with adapters where their beginning is
        named."""
        if self.recipe is not None:
            return (trained_by(self.recipe, self.method).method,)
        if self.method is not None:
            return (self.method,)
        begins = self.lora_init not in (None, "default")
        return tuple(each for each in METHODS if each != "full") if begins else METHODS

    @property
    def compute(self) -> Precision:
        """The precision matrices are multiplied in: 16 bit where the device is fast at it."""
        if self.precision is not None:
            return "bf16" if self.precision == "pure-bf16" else self.precision
        if self.cluster.accelerator.supports_bf16:
            return "bf16"
        return "fp32" if self.cluster.device == "cpu" else "fp16"

    def recipe_for(self, method: Method) -> Recipe:
        """Return the recipe that ``method`` is trained by: the one asked for, or the method's own.

        Raises InvalidRequestError where the recipe asked for trains by adapters and the method
        does not, or the reverse.
        """
        return load_recipe(method) if self.recipe is None else trained_by(self.recipe, method)

    def on(self, cluster: Cluster) -> "Request":
        """Return the same request for another machine, with batch sizes unset; each GPU has
        sequences of its own where a node has no such group of them."""
        shared = self.sequence_parallel_size
        return structs.replace(
            self,
            cluster=cluster,
            global_batch_size=None,
            micro_batch_size=None,
            sequence_parallel_size=(
                None if shared is None or cluster.gpus_per_node % shared else shared
            ),
        )
