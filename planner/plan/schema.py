"""``plan.yaml``: everything a launch needs, and the prediction it will be held against.

The types below are the file's schema. A plan that reads without an error is complete and
free of contradictions; nothing later has to check it again.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, structs

from planner.base.errors import UnknownNameError
from planner.base.strict_yaml import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    Spec,
)
from planner.hardware.cluster import Device
from planner.hardware.network import network_name
from planner.plan.data_section import DataSection
from planner.plan.optimizer_presets import optimizer_name
from planner.plan.prediction_section import PredictionSection
from planner.plan.training_sections import TrainingSection
from planner.plan.vocabulary import (
    OFFLOADS_FROM,
    ZERO_STAGE,
    Attention,
    Loss,
    Method,
    Offload,
    Precision,
    ScheduleKind,
    Strategy,
    ZeroStage,
)


class ModelSection(Spec):
    name: str
    source: str
    """Hub id or local directory of the checkpoint."""
    revision: str | None = None
    model_type: str
    num_params: int
    trainable_params: int
    config: dict[str, Any] | None = None
    """transformers' configuration of the shape: a rehearsal builds the model from it."""


class HardwareSection(Spec):
    device: Device
    gpu: str
    """Preset name, or the size of a card nobody named, or ``cpu``."""
    device_name: str
    capacity_bytes: int
    """Of one device."""
    budget_bytes: int
    """What the plan may use of one device."""
    network: str | None = None
    """What joins several nodes, by its name in presets/networks.yaml; nothing where it is unknown
    or there is one."""

    def __post_init__(self) -> None:
        if self.network is None:
            return
        try:
            structs.force_setattr(self, "network", network_name(self.network))
        except UnknownNameError as error:
            raise ValueError(str(error)) from error


class AdapterSection(Spec):
    rank: PositiveInt
    alpha: PositiveInt
    dropout: Share
    dora: bool = False
    """Direction and magnitude apart (arXiv:2402.09353): one more trained vector a matrix."""
    rslora: bool = False
    """Scaled by alpha over the root of the rank (arXiv:2312.03732), not over the rank."""
    target_modules: Literal["all-linear"] | tuple[str, ...]


class QuantizationSection(Spec):
    quant_type: Literal["nf4", "int8"]
    double_quant: bool = False
    """Scales of 4-bit blocks are quantized too."""

    @property
    def hides_inputs(self) -> bool:
        """Whether products hold their inputs beside autograd's saved tensors, where checkpointing
        cannot drop them unless it is reentrant, and so has no graph until it runs again.

        read: bitsandbytes/autograd/_functions.py at 0.50.2, MatMul8bitLt and MatMul8bitFp.
        """
        return self.quant_type == "int8"

    def __post_init__(self) -> None:
        if self.quant_type == "int8" and self.double_quant:
            raise ValueError("double_quant belongs to nf4: int8 has one scale a row, in fp32")


def refuse_dora_on_int8(
    adapter: AdapterSection | None, quantization: QuantizationSection | None
) -> None:
    """peft makes every int8 matrix whole in fp32 for a norm of its rows: not modelled."""
    in_int8 = quantization is not None and quantization.quant_type == "int8"
    if adapter is not None and adapter.dora and in_int8:
        raise ValueError("adapter.dora does not go with quant_type int8: take nf4, or no DoRA")


class PrecisionSection(Spec):
    """Where each kind of parameter lives between steps, and what matrices are multiplied in."""

    compute: Precision
    frozen: Precision
    trainable: Precision
    """Under DeepSpeed a 16-bit trainable parameter has an fp32 master in the optimizer."""


class BatchSection(Spec):
    micro_batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    global_batch_size: PositiveInt
    sequence_length: PositiveInt
    packing: bool = False


class ZeroSection(Spec):
    """DeepSpeed's sizes, in elements: they bound its buffers, so the memory model reads them."""

    reduce_bucket_size: PositiveInt
    allgather_bucket_size: PositiveInt
    prefetch_bucket_size: NonNegativeInt
    max_live_parameters: NonNegativeInt
    param_persistence_threshold: NonNegativeInt
    sub_group_size: PositiveInt


class ParallelSection(Spec):
    strategy: Strategy
    zero_stage: ZeroStage
    offload: Offload = "none"
    num_nodes: PositiveInt
    gpus_per_node: PositiveInt
    world_size: PositiveInt
    zero: ZeroSection | None = None

    def __post_init__(self) -> None:
        if self.world_size != self.num_nodes * self.gpus_per_node:
            raise ValueError(
                f"world_size ({self.world_size}) must be num_nodes * gpus_per_node "
                f"({self.num_nodes} * {self.gpus_per_node})"
            )
        if self.zero_stage != ZERO_STAGE[self.strategy]:
            raise ValueError(
                f"strategy {self.strategy} means zero_stage {ZERO_STAGE[self.strategy]}, "
                f"not {self.zero_stage}"
            )
        if self.strategy == "single" and self.world_size != 1:
            raise ValueError(f"strategy {self.strategy} cannot run on world_size {self.world_size}")
        if self.zero_stage not in OFFLOADS_FROM[self.offload]:
            stages = " or ".join(map(str, OFFLOADS_FROM[self.offload]))
            raise ValueError(f"offload {self.offload} needs zero_stage {stages}")
        if (self.zero is None) != (self.zero_stage == 0):
            raise ValueError("zero (DeepSpeed's sizes) belongs to the ZeRO strategies, and to all")


class OptimizerSection(Spec):
    name: str
    """A name in presets/optimizers.yaml."""
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    lora_plus_ratio: Annotated[float, Meta(ge=1)] | None = None
    """Learning rate of adapters' B matrices over that of their A matrices (arXiv:2402.12354)."""

    def __post_init__(self) -> None:
        try:
            structs.force_setattr(self, "name", optimizer_name(self.name))
        except UnknownNameError as error:
            raise ValueError(str(error)) from error


class ScheduleSection(Spec):
    kind: ScheduleKind
    warmup_ratio: Share


class OutputSection(Spec):
    directory: str


class Fallback(Spec):
    """What to try next on out of memory; the global batch stays the same."""

    micro_batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    activation_checkpointing: bool
    checkpoint_every: PositiveInt = 1
    strategy: Strategy
    peak_allocated_bytes: int


class Plan(Spec):
    schema_version: Literal[1]
    model: ModelSection
    hardware: HardwareSection
    method: Method
    adapter: AdapterSection | None
    quantization: QuantizationSection | None
    precision: PrecisionSection
    batch: BatchSection
    parallel: ParallelSection
    activation_checkpointing: bool
    checkpoint_every: PositiveInt = 1
    """Which layers recompute their activations: those whose number it divides."""
    attention: Attention
    loss: Loss
    optimizer: OptimizerSection
    schedule: ScheduleSection
    data: DataSection
    training: TrainingSection
    output: OutputSection
    prediction: PredictionSection
    fallbacks: tuple[Fallback, ...]

    def __post_init__(self) -> None:
        batch, ranks = self.batch, self.parallel.world_size
        product = batch.micro_batch_size * batch.gradient_accumulation_steps * ranks
        if product != batch.global_batch_size:
            raise ValueError(
                f"global_batch_size ({batch.global_batch_size}) must be micro_batch_size * "
                f"gradient_accumulation_steps * world_size ({batch.micro_batch_size} * "
                f"{batch.gradient_accumulation_steps} * {ranks} = {product})"
            )
        if (self.adapter is None) != (self.method == "full"):
            raise ValueError(f"method {self.method} and adapter contradict each other")
        if (self.quantization is None) != (self.method != "qlora"):
            raise ValueError(f"method {self.method} and quantization contradict each other")
        refuse_dora_on_int8(self.adapter, self.quantization)
        if self.adapter is None and self.optimizer.lora_plus_ratio is not None:
            raise ValueError("optimizer.lora_plus_ratio needs adapters: method full has none")
        if self.training.evaluation is not None and not self.data.validation_fraction:
            raise ValueError(
                "training.evaluation looks at samples that are kept out of the training: set "
                "data.validation_fraction, such as 0.02"
            )
        if self.checkpoint_every > 1 and not self.activation_checkpointing:
            raise ValueError(
                f"checkpoint_every ({self.checkpoint_every}) says which layers are recomputed, and "
                "activation_checkpointing is false: make it true, or checkpoint_every 1"
            )
