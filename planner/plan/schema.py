"""``plan.yaml``: everything a launch needs, and the prediction its run is held against.

The types below are the file's schema; the sections data, training and prediction have modules
beside this one. A plan that reads without an error is complete and free of
contradictions; no later code has to check it again.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, structs

from planner.base.errors import UserError
from planner.base.phrases import Phrase
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
from planner.plan.bounds import RANKS_OF_EXPERTS, Samples, SequenceLength
from planner.plan.data_section import DataSection
from planner.plan.optimizer_presets import optimizer_name, optimizers
from planner.plan.prediction_section import PredictionSection
from planner.plan.training_section import TrainingSection
from planner.plan.vocabulary import (
    OFFLOADS_WITH,
    SHARDS_NOTHING,
    SHARDS_PARAMETERS,
    SHARES_SAMPLES,
    ZERO_STAGE,
    Attention,
    Loss,
    Method,
    Offload,
    Precision,
    ScheduleKind,
    Strategy,
    ZeroStage,
    data_ranks,
)


class RopeScaling(Spec):
    """Rotary positions beyond those that a model was trained with, by YaRN (arXiv:2309.00071)."""

    rope_type: Literal["yarn"]
    """Kind of the scaling, by transformers' name."""
    factor: Annotated[float, Meta(ge=1)]
    """Positions over those that the model was trained with."""
    original_max_position_embeddings: PositiveInt
    """Positions that the model was trained with."""


class ModelSection(Spec):
    """The model that is trained."""

    name: str
    """Name of the preset, or of the directory."""
    source: str
    """Hub id or local directory of the checkpoint."""
    revision: str | None = None
    """Revision on the hub; None for the newest."""
    model_type: str
    """Architecture, by transformers' name."""
    num_params: int
    """Number of parameters of the base model."""
    trainable_params: int
    """Number of parameters that are trained."""
    config: dict[str, Any] | None = None
    """transformers' configuration of the shape, which a rehearsal builds the model from."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the model's rotary positions; None for the positions that it has."""


class HardwareSection(Spec):
    """The machine that the plan is for."""

    device: Device
    """Kind of device."""
    gpu: str
    """Name of the card's preset, or its size where no card was named, or ``cpu``."""
    device_name: str
    """Name of the device, as the driver has it."""
    capacity_bytes: int
    """Bytes of one device."""
    budget_bytes: int
    """Bytes that the plan may use of one device."""
    network: str | None = None
    """The network between nodes, as ``network_name`` spells it; None where it is unknown or
    there is one node."""

    def __post_init__(self) -> None:
        if self.network is None:
            return
        try:
            structs.force_setattr(self, "network", network_name(self.network))
        except UserError as error:
            raise ValueError(error.message) from error


class AdapterSection(Spec):
    """Low-rank adapters: LoRA, rsLoRA, DoRA, VeRA, and what they begin as: PiSSA, OLoRA."""

    rank: PositiveInt
    """Rank of the two matrices of an adapter."""
    alpha: PositiveInt
    """Scale of an adapter, before it is divided by the rank."""
    dropout: Share
    """Dropout of what enters an adapter."""
    dora: bool = False
    """Whether direction and magnitude are trained apart (arXiv:2402.09353), with one vector more
    per matrix."""
    rslora: bool = False
    """Whether adapters are scaled by alpha over the root of the rank (arXiv:2312.03732) instead of
    over the rank."""
    vera: bool = False
    """Whether only two vectors per matrix are trained, between two frozen random matrices of that
    rank that all share (arXiv:2310.11454); ``alpha`` has no meaning then."""
    init: str = "default"
    """What adapters begin as, by peft's names: ``default`` leaves the base as it is; ``pissa``
    (arXiv:2404.02948), ``pissa_niter_16`` with its 16 iterations, and ``olora`` (arXiv:2406.01775)
    take a part out of its weights, and are saved as an adapter of twice the rank for the base as
    it was."""
    target_modules: Literal["all-linear"] | tuple[str, ...]
    """Matrices that carry adapters: all linear ones but the head, or these by name."""
    target_parameters: tuple[str, ...] = ()
    """Tensors of routed experts that carry adapters, one for each expert, by their names in the
    model's layers: ``experts.gate_up_proj`` and ``experts.down_proj``; in a recipe ``experts`` for
    all of them."""

    def __post_init__(self) -> None:
        if self.init != "default":
            from planner.plan.adapter_init import check_init  # few plans have another

            check_init(self.init)

    @property
    def changes_base(self) -> bool:
        """Whether adapters begin as a part of the base's weights, which is taken out of them."""
        return self.init != "default"

    @property
    def targets(self) -> Literal["all-linear"] | tuple[str, ...]:
        """What carries adapters: matrices, and tensors of routed experts."""
        matrices, tensors = self.target_modules, self.target_parameters
        if not tensors:
            return matrices
        return (*((matrices,) if isinstance(matrices, str) else matrices), *tensors)


class QuantizationSection(Spec):
    """The quantization of the frozen base model."""

    quant_type: Literal["nf4", "int8"]
    """Format of the weights: 4-bit NF4, or LLM.int8."""
    double_quant: bool = False
    """Whether the scales of 4-bit blocks are quantized, too."""
    experts: bool = False
    """Whether routed experts are quantized, too, which transformers holds as one tensor for all
    experts of a layer."""

    @property
    def hides_inputs(self) -> bool:
        """Whether products hold their inputs beside autograd's saved tensors, where checkpointing
        cannot drop them unless it is reentrant, and so has no graph until it runs again.

        read: bitsandbytes/autograd/_functions.py at 0.50.2, MatMul8bitLt and MatMul8bitFp.
        """
        return self.quant_type == "int8"

    def __post_init__(self) -> None:
        if self.quant_type == "int8" and self.double_quant:
            raise ValueError(
                Phrase("double_quant needs quant_type nf4: int8 has one fp32 scale per row")
            )
        if self.quant_type == "int8" and self.experts:
            raise ValueError(
                Phrase(
                    "experts needs quant_type nf4: bitsandbytes multiplies in int8 in linear "
                    "layers alone"
                )
            )


def refuse_adapter(
    adapter: AdapterSection | None, quantization: QuantizationSection | None
) -> None:
    """Raise ValueError for adapters that cannot be: DoRA on an int8 base, as peft makes every int8
    matrix whole in fp32 for a norm of its rows, which is not modelled; and on routed experts what
    peft (tuners/lora/layer.py at 0.21.2, ParamWrapper) or grouped products do not have: PyTorch
    wants rows of 16 bytes (aten/src/ATen/native/GroupedMMUtils.h at 2.13).
    """
    if adapter is None:
        return
    if adapter.vera:
        _refuse_beside_vera(adapter)
    if adapter.dora and quantization is not None and quantization.quant_type == "int8":
        raise ValueError(
            Phrase(
                "adapter.dora cannot be combined with quant_type int8: use nf4, or leave dora out"
            )
        )
    if not adapter.target_parameters:
        return
    if adapter.dropout or adapter.dora:
        raise ValueError(
            Phrase(
                "peft adapts routed experts without dropout and without DoRA: set dropout 0 and "
                "dora false, or leave target_parameters out"
            )
        )
    if adapter.rank % RANKS_OF_EXPERTS:
        raise ValueError(
            Phrase(
                "adapters of routed experts need a rank that {ranks} divides, since grouped "
                "products have rows of 16 bytes: {rank} is not one",
                ranks=RANKS_OF_EXPERTS,
                rank=adapter.rank,
            )
        )


def _refuse_beside_vera(adapter: AdapterSection) -> None:
    """Raise ValueError for what VeRA has not; read: peft/tuners/vera/config.py at 0.21.2."""
    others = {
        "dora": adapter.dora,
        "rslora": adapter.rslora,
        "init": adapter.changes_base,
        "target_parameters": bool(adapter.target_parameters),
    }
    for name, given in others.items():
        if given:
            raise ValueError(
                Phrase(
                    "adapter.{name} cannot be combined with vera, whose matrices are random and "
                    "are not trained: leave one of the two out",
                    name=name,
                )
            )


class PrecisionSection(Spec):
    """The dtype of each kind of parameter between steps, and of matrix products."""

    compute: Precision
    """The dtype in which matrices are multiplied."""
    frozen: Precision
    """The dtype of parameters that are not trained."""
    trainable: Precision
    """The dtype of trained parameters and their gradients."""
    master: Precision | None
    """The dtype of what the optimizer updates, where trained parameters are computed with in
    another: of DeepSpeed's copy of them, or of FSDP's shards. Null where the parameters themselves
    are updated."""

    def __post_init__(self) -> None:
        if self.pure and self.compute == "fp16":
            raise ValueError(
                Phrase(
                    "precision fp16 needs an fp32 copy of what trains, since PyTorch does not "
                    "unscale gradients in fp16: set trainable fp32, or compute bf16"
                )
            )

    @property
    def autocast(self) -> bool:
        """Whether matrices are multiplied in fewer bits than the parameters that train have."""
        return self.compute != self.trainable

    @property
    def pure(self) -> bool:
        """Whether what the optimizer updates is in 16 bit."""
        return self.home != "fp32"

    @property
    def home(self) -> Precision:
        """The dtype of what the optimizer updates."""
        return self.master or self.trainable


class BatchSection(Spec):
    """The samples of a step."""

    micro_batch_size: Samples
    """Samples per forward pass on one device."""
    gradient_accumulation_steps: Samples
    """Micro-batches per optimizer step on one device."""
    global_batch_size: Samples
    """Samples per optimizer step over all devices: the product of the two above and the number
    of ranks that have samples of their own: of all devices, but for those that share a sequence,
    or, where layers are cut, all samples."""
    sequence_length: SequenceLength
    """Tokens per sample; longer samples are cut."""
    packing: bool = False
    """Whether several samples share one sequence without seeing each other."""


class ZeroSection(Spec):
    """DeepSpeed's sizes in elements; they bound its buffers, so the memory model reads them."""

    reduce_bucket_size: PositiveInt
    """Elements of gradients that are reduced at once."""
    allgather_bucket_size: PositiveInt
    """Elements of parameters that are gathered at once after an update."""
    prefetch_bucket_size: NonNegativeInt
    """Elements of parameters that ZeRO-3 gathers ahead."""
    max_live_parameters: NonNegativeInt
    """Elements of gathered parameters beyond which ZeRO-3 releases some."""
    param_persistence_threshold: NonNegativeInt
    """Elements up to which ZeRO-3 does not shard a parameter."""
    sub_group_size: PositiveInt
    """Elements that an update goes through at once."""


class ParallelSection(Spec):
    """How the ranks share the work and the states."""

    strategy: Strategy
    """One device, DDP, a stage of DeepSpeed's ZeRO, PyTorch's FSDP2, or tensor parallelism, where
    every rank computes a part of each layer."""
    zero_stage: ZeroStage
    """Stage of ZeRO that the strategy means; 0 without DeepSpeed."""
    offload: Offload = "none"
    """States that are kept in host memory."""
    num_nodes: PositiveInt
    """Number of machines."""
    gpus_per_node: PositiveInt
    """Number of devices of one machine."""
    world_size: PositiveInt
    """Number of ranks: the product of the two above."""
    copies: PositiveInt = 1
    """How often the whole of the parameters exists over all ranks: FSDP over several nodes may have
    a copy on each, whose ranks alone gather it, and reduce gradients between the copies."""
    sequence_parallel_size: PositiveInt = 1
    """Number of ranks that share one sequence, each with a part of its tokens (DeepSpeed's
    Ulysses, arXiv:2309.14509)."""
    zero: ZeroSection | None = None

    def __post_init__(self) -> None:
        if self.world_size != self.num_nodes * self.gpus_per_node:
            raise ValueError(
                Phrase(
                    "world_size ({world_size}) must be num_nodes * gpus_per_node ({num_nodes} * "
                    "{gpus_per_node})",
                    world_size=self.world_size,
                    num_nodes=self.num_nodes,
                    gpus_per_node=self.gpus_per_node,
                )
            )
        if self.zero_stage != ZERO_STAGE[self.strategy]:
            raise ValueError(
                Phrase(
                    "strategy {strategy} means zero_stage {zero_stage}, not {given}",
                    strategy=self.strategy,
                    zero_stage=ZERO_STAGE[self.strategy],
                    given=self.zero_stage,
                )
            )
        if self.strategy == "single" and self.world_size != 1:
            raise ValueError(
                Phrase(
                    "strategy {strategy} cannot run on world_size {world_size}",
                    strategy=self.strategy,
                    world_size=self.world_size,
                )
            )
        if self.strategy in SHARES_SAMPLES and (self.num_nodes > 1 or self.world_size == 1):
            raise ValueError(
                Phrase(
                    "strategy {strategy} needs several devices of one node: num_nodes is "
                    "{num_nodes}, gpus_per_node {gpus_per_node}",
                    strategy=self.strategy,
                    num_nodes=self.num_nodes,
                    gpus_per_node=self.gpus_per_node,
                )
            )
        self._check_sequences()
        if self.strategy not in OFFLOADS_WITH[self.offload]:
            raise ValueError(
                Phrase(
                    "offload {offload} needs strategy {strategies}",
                    offload=self.offload,
                    strategies=" or ".join(OFFLOADS_WITH[self.offload]),
                )
            )
        if (self.zero is None) != (self.zero_stage == 0):
            raise ValueError(
                Phrase(
                    "parallel.zero is required for every ZeRO strategy and must be absent otherwise"
                )
            )
        if self.copies > 1:
            _check_copies(self)

    @property
    def shard_ranks(self) -> int:
        """Number of ranks that share one copy of what is sharded."""
        return self.world_size // self.copies

    def _check_sequences(self) -> None:
        """Raise ValueError for ranks that cannot share a sequence: those of a node do, under
        DeepSpeed."""
        shared = self.sequence_parallel_size
        if shared == 1:
            return
        if self.gpus_per_node % shared:
            raise ValueError(
                Phrase(
                    "sequence_parallel_size ({shared}) must divide gpus_per_node "
                    "({gpus_per_node}): the ranks of one sequence are on one node",
                    shared=shared,
                    gpus_per_node=self.gpus_per_node,
                )
            )
        if self.zero_stage == 0:
            raise ValueError(
                Phrase(
                    "sequence_parallel_size {shared} needs a ZeRO strategy, not {strategy}",
                    shared=shared,
                    strategy=self.strategy,
                )
            )

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has a part of some states alone."""
        return self.strategy not in SHARDS_NOTHING

    @property
    def shards_parameters(self) -> bool:
        """Whether each rank has a part of every parameter alone."""
        return self.strategy in SHARDS_PARAMETERS

    @property
    def data_ranks(self) -> int:
        """Number of ranks, or of groups that share one sequence, with samples of their own."""
        return data_ranks(self.strategy, self.world_size, self.sequence_parallel_size)


def _check_copies(parallel: ParallelSection) -> None:
    """Raise ValueError where several copies of the parameters cannot be."""
    if parallel.strategy != "fsdp":
        raise ValueError(
            Phrase(
                "copies {copies} needs strategy fsdp, not {strategy}",
                copies=parallel.copies,
                strategy=parallel.strategy,
            )
        )
    if parallel.world_size % parallel.copies or parallel.shard_ranks < 2:
        raise ValueError(
            Phrase(
                "copies ({copies}) must divide world_size ({world_size}) into two ranks or more "
                "for each copy",
                copies=parallel.copies,
                world_size=parallel.world_size,
            )
        )


class OptimizerSection(Spec):
    """The optimizer and its settings."""

    name: str
    """The optimizer, by its name in presets/optimizers.yaml."""
    learning_rate: PositiveFloat
    """Highest learning rate of the schedule."""
    weight_decay: NonNegativeFloat
    """Weight decay; as in transformers, biases and norms have none."""
    max_grad_norm: PositiveFloat
    """Norm that gradients are clipped to."""
    lora_plus_ratio: Annotated[float, Meta(ge=1)] | None = None
    """Learning rate of adapters' B matrices over that of their A matrices (arXiv:2402.12354); None
    for the same."""

    def __post_init__(self) -> None:
        try:
            structs.force_setattr(self, "name", optimizer_name(self.name))
        except UserError as error:
            raise ValueError(error.message) from error
        if self.weight_decay and not optimizers()[self.name].decays:
            raise ValueError(
                Phrase("transformers hands {name} no weight decay: set it to 0", name=self.name)
            )


class ScheduleSection(Spec):
    """The learning rate over the steps."""

    kind: ScheduleKind
    """Shape of the learning rate after the warm-up."""
    warmup_ratio: Share
    """Share of the steps in which the learning rate rises."""


class OutputSection(Spec):
    """The directory of the run."""

    directory: str
    """Run directory."""


class Fallback(Spec):
    """The next thing to try after out of memory, with the same global batch."""

    micro_batch_size: Samples
    """Samples per forward pass on one device."""
    gradient_accumulation_steps: Samples
    """Micro-batches per optimizer step on one device."""
    activation_checkpointing: bool
    """Whether activations are recomputed."""
    checkpoint_every: PositiveInt = 1
    """Every how many layers one recomputes its activations."""
    strategy: Strategy
    """One device, DDP, or a stage of ZeRO."""
    peak_allocated_bytes: int
    """Bytes of tensors at the predicted peak."""


def check_method(
    method: Method,
    adapter: AdapterSection | None,
    quantization: QuantizationSection | None,
    optimizer: OptimizerSection,
) -> None:
    """Raise ValueError for sections that a method lacks or must not have, in a plan or a recipe."""
    if (adapter is None) != (method == "full"):
        raise ValueError(_section_error(method, "adapter", given=adapter is not None))
    if (quantization is None) != (method != "qlora"):
        raise ValueError(_section_error(method, "quantization", given=quantization is not None))
    refuse_adapter(adapter, quantization)
    if adapter is not None and adapter.vera and optimizer.lora_plus_ratio is not None:
        raise ValueError(
            Phrase("optimizer.lora_plus_ratio needs matrices that train, which VeRA does not have")
        )
    if adapter is None and optimizer.lora_plus_ratio is not None:
        raise ValueError(
            Phrase("optimizer.lora_plus_ratio needs adapters, which method full does not have")
        )


def _section_error(method: Method, section: str, *, given: bool) -> str:
    """Return the words for a section that a method must have and lacks, or the reverse."""
    article = "an" if section[0] in "aeiou" else "a"
    named = {"method": method, "article": article, "section": section}
    if given:
        return Phrase("method {method} must not have {article} {section} section", **named)
    return Phrase("method {method} requires {article} {section} section", **named)


class Plan(Spec):
    """A plan: the content of ``plan.yaml``."""

    noun = Phrase("a plan")
    schema_version: Literal[1]
    """Version of this format."""
    model: ModelSection
    hardware: HardwareSection
    method: Method
    """Method of fine-tuning."""
    adapter: AdapterSection | None
    quantization: QuantizationSection | None
    precision: PrecisionSection
    batch: BatchSection
    parallel: ParallelSection
    activation_checkpointing: bool
    """Whether activations are recomputed in the backward pass."""
    checkpoint_every: PositiveInt = 1
    """Every how many layers one recomputes its activations: those whose number it divides."""
    activation_offloading: bool = False
    """Whether the inputs of recomputed layers wait in host memory for the backward pass."""
    tiled_mlp: bool = False
    """Whether each MLP runs tile by tile over the tokens, again in the backward pass."""
    attention: Attention
    """Attention implementation, by transformers' name."""
    loss: Loss
    """Cross-entropy: trl's fused head, or the standard one."""
    optimizer: OptimizerSection
    schedule: ScheduleSection
    data: DataSection
    training: TrainingSection
    output: OutputSection
    prediction: PredictionSection
    fallbacks: tuple[Fallback, ...]

    @property
    def kept_trainable(self) -> Precision:
        """The dtype of trained parameters between steps: under FSDP that of what is updated."""
        precision = self.precision
        return precision.home if self.parallel.strategy == "fsdp" else precision.trainable

    def __post_init__(self) -> None:
        self._check_batch()
        check_method(self.method, self.adapter, self.quantization, self.optimizer)
        if self.training.evaluation is not None and not self.data.validation_fraction:
            raise ValueError(
                Phrase(
                    "training.evaluation needs samples that are kept out of training: set "
                    "data.validation_fraction, such as 0.02"
                )
            )
        if self.checkpoint_every > 1 and not self.activation_checkpointing:
            raise ValueError(
                Phrase(
                    "checkpoint_every ({checkpoint_every}) says which layers are recomputed, and "
                    "activation_checkpointing is false: make it true, or checkpoint_every 1",
                    checkpoint_every=self.checkpoint_every,
                )
            )
        if self.activation_offloading and not self.activation_checkpointing:
            raise ValueError(
                Phrase(
                    "activation_offloading moves the inputs of recomputed layers, and "
                    "activation_checkpointing is false: make it true, or activation_offloading "
                    "false"
                )
            )

    def _check_batch(self) -> None:
        """Raise ValueError for numbers of samples and of tokens that contradict the ranks."""
        batch, parallel = self.batch, self.parallel
        shared = parallel.sequence_parallel_size
        product = batch.micro_batch_size * batch.gradient_accumulation_steps * parallel.data_ranks
        if product != batch.global_batch_size:
            raise ValueError(
                Phrase(
                    "global_batch_size ({global_batch_size}) must be micro_batch_size * "
                    "gradient_accumulation_steps * world_size{over} ({micro_batch_size} * "
                    "{gradient_accumulation_steps} * {ranks} = {product})",
                    over=Phrase(" / sequence_parallel_size") if shared > 1 else "",
                    global_batch_size=batch.global_batch_size,
                    micro_batch_size=batch.micro_batch_size,
                    gradient_accumulation_steps=batch.gradient_accumulation_steps,
                    ranks=parallel.data_ranks,
                    product=product,
                )
            )
        if batch.sequence_length % shared:
            raise ValueError(
                Phrase(
                    "sequence_length ({length}) must be a multiple of sequence_parallel_size "
                    "({shared})",
                    length=batch.sequence_length,
                    shared=shared,
                )
            )
