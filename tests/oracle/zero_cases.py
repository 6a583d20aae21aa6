"""Small runs of DeepSpeed and of FSDP on two or four ranks, and what the memory model says."""

from dataclasses import dataclass
from typing import Any

from msgspec import structs, to_builtins

from planner.memory.footprint import Footprint, footprint_of
from planner.models.expert_shape import ExpertsSpec
from planner.models.layered_shape import FullHeadsSpec, PerLayerInputsSpec, SharedKeysSpec
from planner.models.model_spec import ModelSpec
from planner.models.towers import TowersSpec, VisionTowerSpec
from planner.plan.schema import Plan
from planner.plan.vocabulary import Loss, Method, Precision, Strategy
from planner.workload.dtypes import numerics_of
from planner.workload.layout import Layout
from planner.workload.plan_sections import precision_section
from planner.workload.rules import rule_book
from planner.workload.workload import Batch, Workload
from planner.workload.zero_sizes import zero_section
from tests.launcher.plans import full, parallel, plan
from tests.oracle.small_models import (
    COHERE,
    COHERE2,
    ERNIE,
    EXAONE4,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA4_WRAPPER,
    GLM,
    GLM4,
    LLAMA,
    OLMO2,
    OLMO3,
    PHI,
    PHI3,
    QWEN3_5,
    STARCODER2,
    workload_of,
)

RANKS = 2
SHAPE = structs.replace(
    LLAMA,
    num_layers=4,
    hidden_size=512,
    intermediate_size=1536,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    vocab_size=2048,
)
"""28 MiB of weights beside 4 of buckets, so that every buffer shows."""


MIXTURE = structs.replace(
    SHAPE,
    model_type="mixtral",
    intermediate_size=768,
    experts=ExpertsSpec(
        num_experts=4,
        experts_per_token=2,
        intermediate_size=768,
        router="softmax-fp32",
        normalized=True,
    ),
)


WRAPPER = structs.replace(
    LLAMA,
    **GEMMA4_WRAPPER
    | {
        "num_layers": 4,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "head_dim": 64,
        "full_heads": FullHeadsSpec(head_dim=128, key_value_heads=2),
        "shared_keys": SharedKeysSpec(num_layers=2, wide_mlp=True),
        "per_layer_inputs": PerLayerInputsSpec(size=64, vocab_size=2048),
        "vocab_size": 2048,
        "beside": TowersSpec(
            vision=VisionTowerSpec(
                num_layers=2,
                hidden_size=512,
                intermediate_size=1024,
                num_attention_heads=8,
                num_key_value_heads=8,
                head_dim=64,
                patch_size=4,
                position_rows=256,
            )
        ),
    },
)
OF_TYPE: dict[str, dict[str, Any]] = {
    "qwen2": {"qkv_bias": True, "tied_embeddings": True},
    "qwen3": {"qk_norm": "heads"},
    "granite": {"multipliers": True, "tied_embeddings": True, "vocab_size": 2047},
    **{
        str(each["model_type"]): each | {"num_key_value_heads": 4, "head_dim": 64}
        for each in (
            *(COHERE, COHERE2, ERNIE, EXAONE4, GEMMA, GEMMA2, GEMMA3, GLM, GLM4),
            *(OLMO2, OLMO3, PHI, PHI3, QWEN3_5, STARCODER2),
        )
    },
}

SMALL = {"hidden_size": 128, "intermediate_size": 384, "head_dim": 16}
CUT = next(
    rule.when.model_type_other_than for rule in rule_book() if rule.name == "tensor-other-model"
)
"""Architectures whose layers are planned to be cut over ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroCase:
    """One run, small enough for any machine."""

    method: Method
    strategy: Strategy
    steps: int = 1
    """Micro-batches of an optimizer step."""
    checkpointing: bool = False
    loss: Loss = "standard"
    micro_batch_size: int = 2
    sequence_length: int = 64
    compute: Precision = "bf16"
    pure: bool = False
    mixture: bool = False
    """Whether the model is one of experts."""
    towers: bool = False
    """Whether a model of images stands beside it."""
    on_experts: bool = False
    """Whether adapters are on experts, too."""
    optimizer: str = "adamw_torch_fused"
    copies: int = 1
    """Copies of the parameters, each over two ranks."""
    sequence_ranks: int = 1
    """Ranks that share each sequence."""
    tiled_mlp: bool = False
    """Whether MLPs, which are wide then, run tile by tile."""
    one_key: bool = False
    """Whether all queries have one head of keys and values."""

    dropout: float = 0.0
    """Of the adapters' inputs."""
    model_type: str = "llama"
    small: bool = False
    """Whether the model is as small as the values of its tensors need it, not their sizes."""

    @property
    def ranks(self) -> int:
        return RANKS * self.copies

    @property
    def shape(self) -> ModelSpec:
        if self.towers:
            return WRAPPER
        shape = MIXTURE if self.mixture else SHAPE
        if self.model_type in OF_TYPE:
            own = {"model_type": self.model_type, **OF_TYPE[self.model_type]}
            shape = structs.replace(SHAPE, **own)
        if self.small:
            every = 1 if shape.delta is None else shape.delta.attention_every
            shape = structs.replace(shape, **SMALL, num_layers=max(2, every))
        if self.tiled_mlp:
            shape = structs.replace(shape, intermediate_size=8192)
        return structs.replace(shape, num_key_value_heads=1) if self.one_key else shape

    @property
    def workload(self) -> Workload:
        targets = ("all-linear", "experts") if self.on_experts else "all-linear"
        work = workload_of(self.shape, self.method, self.compute, self.dropout, targets)
        work = structs.replace(work, pure=self.pure)
        optimizer = structs.replace(work.settings.optimizer, name=self.optimizer)
        return work.with_settings(
            sequence_length=self.sequence_length,
            loss=self.loss,
            optimizer=optimizer,
            tiled_mlp=self.tiled_mlp,
        )

    @property
    def layout(self) -> Layout:
        return Layout(
            strategy=self.strategy,
            world_size=self.ranks,
            micro_batch_size=self.micro_batch_size,
            gradient_accumulation_steps=self.steps,
            activation_checkpointing=self.checkpointing,
            copies=self.copies,
            sequence_ranks=self.sequence_ranks,
        )

    @property
    def plan(self) -> Plan:
        changes: dict[str, Any] = full() if self.method == "full" else {"method": self.method}
        zero = zero_section(self.workload, self.layout)
        return plan(
            **changes
            | {
                "precision": to_builtins(precision_section(self.workload, self.layout)),
                "adapter": to_builtins(self.workload.settings.adapter),
                "quantization": to_builtins(self.workload.settings.quantization),
                "model__model_type": self.shape.model_type,
                "attention": self.workload.attention,
                "parallel": {
                    **parallel(self.strategy, self.ranks, copies=self.copies),
                    "zero": to_builtins(zero),
                    "sequence_parallel_size": self.sequence_ranks,
                },
                "activation_checkpointing": self.checkpointing,
                "tiled_mlp": self.tiled_mlp,
                "batch__micro_batch_size": self.micro_batch_size,
                "batch__gradient_accumulation_steps": self.steps,
                "batch__global_batch_size": self.layout.global_batch_size,
            }
        )

    @property
    def predicted(self) -> Footprint:
        kinds = numerics_of(self.workload, self.layout)
        batch = Batch(
            micro_batch_size=self.micro_batch_size,
            sequence_length=self.sequence_length // self.sequence_ranks,
            masked=self.micro_batch_size > 1 and self.sequence_ranks == 1,
            device="cpu",
            sequence_ranks=self.sequence_ranks,
        )
        return footprint_of(self.workload, self.layout, batch, kinds)
