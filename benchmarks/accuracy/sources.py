"""What a source's training loop does: its conventions, declared as data, never fitted."""

from functools import cache
from pathlib import Path
from typing import Literal

from msgspec import field, to_builtins

from benchmarks.rows import Quantity
from planner.base.preset_files import preset_names
from planner.base.strict_yaml import Spec, parse_yaml, read_spec, read_text
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.vocabulary import Loss, Method
from planner.workload.dtypes import CrossEntropy, GroupedHeads, Numerics

DIRECTORY = Path(__file__).parent / "sources"
WHOLE = Path(__file__).parent / "set_aside.yaml"
SHAPES = Path(__file__).parent / "shapes"
Parallel = Literal["single", "ddp", "fsdp", "fsdp no_shard"]
HoldsOutput = Literal["backward", "the step", "the next forward"]


class MethodConventions(Spec):
    """Bytes per element; see :class:`planner.workload.dtypes.Numerics`."""

    frozen: int
    outside: int
    trainable: int
    gradient: int
    master: int
    residual: int
    autocast: bool


class ShardingConventions(Spec):
    """How parameters are sharded: see :mod:`benchmarks.accuracy.fsdp`."""

    reduced_in: int
    """Bytes per element of a gradient while it is reduced."""
    kept_in: int
    """Bytes per element of a sharded trainable parameter and of its gradient."""
    shards: bool = True
    """False for NO_SHARD: units are whole on every rank, their gradients reduced in place."""
    on_host: bool = False
    """Shards and optimizer states stay on the host."""


class SourceConventions(Spec):
    """How one source trains and what it read, with where that was seen."""

    name: str
    """Prefix of the ids of its rows."""
    seen_in: str
    models: dict[str, str]
    """The source's name of a model to the preset, or to the file in ``shapes``, of its shape."""
    methods: dict[Method, MethodConventions]
    loss: Loss
    keeps_logits: bool
    holds_output: HoldsOutput = "backward"
    """What has ended when the output that is kept goes."""
    grouped_heads: GroupedHeads
    dropout: float
    optimizer: str
    expandable_segments: bool
    cross_entropy: CrossEntropy = "labels shifted"
    cross_entropy_of: dict[str, CrossEntropy] = field(default_factory=dict)
    """Models whose code takes the loss otherwise."""
    output_in_fp32: bool = False
    denominator_apart: bool = False
    """Whether AdamW makes its denominators beside the roots that they are made of: torch before
    2.1, _multi_tensor_adamw."""
    steps_in_backward: bool = False
    """Each parameter is updated as soon as its gradient is there."""
    attention: dict[str, Literal["sdpa", "eager"]] = field(default_factory=dict)
    """The source's word to the kernel of the same tensors."""
    quantization: dict[str, Literal["nf4", "nf4-double"]] = field(default_factory=dict)
    """The source's word to the packing of its weights."""
    precision: dict[str, Literal["bf16", "fp16"]] = field(default_factory=dict)
    """The source's word to what matrices are multiplied in."""
    gptq: MethodConventions | None = None
    """Where GPTQ weights are trained on, instead of those of QLoRA."""
    modules_to_save: tuple[str, ...] = ()
    """The source's words for targets beside which copies of the embedding and the head train."""
    reduce_bucket_size: int | None = None
    """DeepSpeed's, in elements."""
    targets: dict[str, str] = field(default_factory=dict)
    """The source's words for a model's matrices to ours, separated by commas."""
    parallel: dict[str, Parallel] = field(default_factory=dict)
    """The source's word to ours, where it is not one process."""
    sharding: ShardingConventions | None = None
    cards: dict[str, str] = field(default_factory=dict)
    """The source's word for a card to its preset: where it fills up, the allocator gives cached
    blocks back."""
    read: dict[str, Quantity] = field(default_factory=dict)
    """What a reading stands for that the source does not name."""
    unit: dict[str, Literal["GiB", "MiB", "1000 MiB"]] = field(default_factory=dict)
    """What a unit stands for that the source prints otherwise."""
    set_aside: dict[str, str] = field(default_factory=dict)
    """Rows that are not predicted, each with the reason."""

    def numerics(self, method: Method, model: str, *, gptq: bool) -> Numerics:
        """The conventions as the memory model takes them; matrices are multiplied in 16 bit."""
        own = self.gptq if gptq else self.methods[method]
        assert own is not None
        return Numerics(
            compute=2,
            keeps_logits=self.keeps_logits,
            grouped_heads=self.grouped_heads,
            cross_entropy=self.cross_entropy_of.get(model, self.cross_entropy),
            output_in_fp32=self.output_in_fp32 and own.autocast,
            **to_builtins(own),
        )

    def shape(self, model: str) -> ModelSpec | None:
        """The shape of one of the source's models, if there is one."""
        name = self.models[model]
        if name in preset_names("models"):
            return load_model(name).spec
        path = SHAPES / f"{name}.yaml"
        return read_spec(ModelSpec, path) if path.is_file() else None


@cache
def sources() -> dict[str, SourceConventions]:
    """Every declared source by its name."""
    found = [read_spec(SourceConventions, path) for path in sorted(DIRECTORY.glob("*.yaml"))]
    return {source.name: source for source in found}


@cache
def whole_sources_set_aside() -> dict[str, str]:
    """Sources of which no row is predicted, each with the reason."""
    reasons: dict[str, str] = parse_yaml(read_text(WHOLE), WHOLE)
    return reasons
