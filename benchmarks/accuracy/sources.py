"""Conventions of the sources' training loops, declared as data and never fitted."""

from functools import cache
from pathlib import Path
from typing import Literal

from msgspec import field, structs, to_builtins

from benchmarks.rows import Quantity
from planner.base.preset_files import preset_names
from planner.base.strict_yaml import Spec, parse_yaml, read_spec
from planner.base.text_files import read_text
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
    """Conventions by which parameters are sharded: see :mod:`benchmarks.accuracy.fsdp`."""

    reduced_in: int
    """Bytes per element of a gradient while it is reduced."""
    kept_in: int
    """Bytes per element of a sharded trainable parameter and of its gradient."""
    gathered_in: int = 2
    """Bytes per element of a gathered trainable parameter and of its gradient."""
    use_orig_params: bool = False
    """Whether the optimizer has parts of the original parameters, views of the shard. A gradient is
    freed only when the next forward begins, since zero_grad drops views of it."""
    checkpoint_around_unit: bool = False
    """Whether a layer's checkpoint is reentrant and around its unit. Backward then gathers the unit
    to run it again, and once more; none is prefetched, since none that has not run again awaits its
    backward."""
    shards: bool = True
    """Whether units are sharded; with NO_SHARD they are whole on every rank and their gradients are
    reduced in place."""
    on_host: bool = False
    """Whether shards and optimizer states stay on the host."""


class SourceConventions(Spec):
    """Conventions of one source's training and readings, with where they were seen."""

    name: str
    """Prefix of the ids of its rows."""
    seen_in: str
    models: dict[str, str]
    """Preset, or file in ``shapes``, with the shape of a model, by the source's name of the
    model."""
    methods: dict[Method, MethodConventions]
    loss: Loss
    keeps_logits: bool
    holds_output: HoldsOutput = "backward"
    """Event after which the kept output is freed."""
    grouped_heads: GroupedHeads
    dropout: float
    optimizer: str
    optimizers: tuple[str, ...]
    """Words of its rows for the optimizer that is declared; a row with another is set aside."""
    losses: tuple[str, ...]
    """Words of its rows for the loss that is declared."""
    expandable_segments: bool
    cross_entropy: CrossEntropy = "labels shifted"
    cross_entropy_of: dict[str, CrossEntropy] = field(default_factory=dict)
    """Cross-entropy of models whose code differs."""
    grouped_heads_of: dict[str, GroupedHeads] = field(default_factory=dict)
    """Treatment of grouped heads by models whose code differs."""
    output_in_fp32: bool = False
    denominator_apart: bool = False
    """Whether AdamW makes its denominators while the roots that they are made of are alive: torch
    before 2.1, _multi_tensor_adamw."""
    steps_in_backward: bool = False
    """Whether each parameter is updated as soon as its gradient arrives."""
    offloads: tuple[str, ...] = ("none",)
    """Words of its rows for what is offloaded, as far as it is declared."""
    attention: dict[str, Literal["sdpa", "eager"]] = field(default_factory=dict)
    """Kernel with the same tensors by the source's word for its attention."""
    windows_in_kernel: bool = False
    """Whether the attention kernel itself cuts a window, so that there is no mask for it."""
    quantization: dict[str, Literal["nf4", "nf4-double"]] = field(default_factory=dict)
    """Packing of the weights by the source's word."""
    packs_experts: bool = False
    """Whether the experts of a mixture are packed, too, as all linear layers were before
    transformers 5."""
    loops_over_experts: bool = False
    """Whether the experts of a mixture run one by one, as before transformers 5."""
    precision: dict[str, Literal["bf16", "fp16"]] = field(default_factory=dict)
    """Dtype that matrices are multiplied in by the source's word."""
    gptq: MethodConventions | None = None
    """Conventions of training on GPTQ weights, instead of those of QLoRA."""
    modules_to_save: tuple[str, ...] = ()
    """Targets, in the source's words, beside which copies of the embedding and the head train."""
    reduce_bucket_size: int | None = None
    """Size of DeepSpeed's bucket in elements."""
    targets: dict[str, str] = field(default_factory=dict)
    """Our names of a model's matrices, separated by commas, by the source's words."""
    parallel: dict[str, Parallel] = field(default_factory=dict)
    """Our word for the parallelism by the source's, if it is not one process."""
    sharding: dict[Method, ShardingConventions] = field(default_factory=dict)
    reentrant: bool = False
    """Whether layers are checkpointed by torch's reentrant variant."""
    cards: dict[str, str] = field(default_factory=dict)
    """Preset of a card by the source's word for it; on a known card the allocator returns cached
    blocks when it fills up."""
    read: dict[str, Quantity] = field(default_factory=dict)
    """Quantity that was read, by the source's word for a reading."""
    unit: dict[str, Literal["GiB", "MiB", "1000 MiB"]] = field(default_factory=dict)
    """Unit by the source's word, if it prints another one."""
    set_aside: dict[str, str] = field(default_factory=dict)
    """Reasons by row that is not predicted."""

    def numerics(self, method: Method, model: str, *, gptq: bool) -> Numerics:
        """Return the conventions in the form of the memory model; matrices are multiplied in 16
        bit."""
        own = self.gptq if gptq else self.methods[method]
        assert own is not None
        return Numerics(
            compute=2,
            keeps_logits=self.keeps_logits,
            grouped_heads=self.grouped_heads_of.get(model, self.grouped_heads),
            cross_entropy=self.cross_entropy_of.get(model, self.cross_entropy),
            output_in_fp32=self.output_in_fp32 and own.autocast,
            **to_builtins(own),
        )

    def shape(self, model: str) -> ModelSpec | None:
        """Return the shape of one of the source's models, or None."""
        found = _shape(self.models[model])
        if found is None or not self.windows_in_kernel:
            return found
        return structs.replace(found, sliding_window=None)


def _shape(name: str) -> ModelSpec | None:
    if name in preset_names("models"):
        return load_model(name).spec
    path = SHAPES / f"{name}.yaml"
    return read_spec(ModelSpec, path) if path.is_file() else None


@cache
def sources() -> dict[str, SourceConventions]:
    """Return every declared source by its name."""
    found = [read_spec(SourceConventions, path) for path in sorted(DIRECTORY.glob("*.yaml"))]
    return {source.name: source for source in found}


@cache
def whole_sources_set_aside() -> dict[str, str]:
    """Return the reasons by source of which no row is predicted."""
    reasons: dict[str, str] = parse_yaml(read_text(WHOLE), WHOLE)
    return reasons
