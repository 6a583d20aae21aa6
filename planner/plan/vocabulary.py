"""The words of a plan: methods, strategies, phases and parts."""

from typing import Literal, get_args

from planner.base.phrases import Phrase

SCHEMA_VERSION: Literal[1] = 1


Method = Literal["qlora", "lora", "full"]


Strategy = Literal["single", "ddp", "zero1", "zero2", "zero3", "fsdp", "tensor"]


ZeroStage = Literal[0, 1, 2, 3]


Offload = Literal["none", "optimizer", "all"]
"""The states in host memory: none; gradients and optimizer states, updated there; the parameters,
too (ZeRO-3)."""


Precision = Literal["bf16", "fp16", "fp32"]


TrainingPrecision = Literal["bf16", "fp16", "fp32", "pure-bf16"]
"""How a model trains: its matrices are multiplied in the precision of that name, and what the
optimizer updates is in fp32; with ``pure-bf16`` all is in bf16."""


PURE: TrainingPrecision = "pure-bf16"
"""The one that keeps nothing in fp32: fp16 gradients are scaled, which needs fp32 ones."""


Loss = Literal["fused", "standard"]


Attention = Literal["sdpa", "eager"]


AttentionName = Literal[
    "sdpa",
    "eager",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
]
"""transformers' names; presets/rules.yaml has the reasons why a plan has only the first two."""


ScheduleKind = Literal["cosine", "linear", "constant"]


Phase = Literal["load", "forward", "backward", "optimizer_step", "save"]


Part = Literal[
    "weights",
    "adapters",
    "gradients",
    "optimizer_states",
    "activations",
    "loss",
    "workspace",
    "communication",
]


PHASES: tuple[Phase, ...] = get_args(Phase)
PHASE_TITLES: dict[Phase, str] = {
    "load": Phrase("load"),
    "forward": Phrase("forward"),
    "backward": Phrase("backward"),
    "optimizer_step": Phrase("step"),
    "save": Phrase("save"),
}
"""The phases as tables and charts head them."""


PARTS: tuple[Part, ...] = get_args(Part)


METHODS: tuple[Method, ...] = ("qlora", "lora", "full")
"""All methods, the leanest first."""
METHOD_NAMES: dict[Method, str] = {"qlora": "QLoRA", "lora": "LoRA", "full": Phrase("full")}
"""The methods as sentences name them."""


ZERO_STAGE: dict[Strategy, ZeroStage] = {
    "single": 0,
    "ddp": 0,
    "zero1": 1,
    "zero2": 2,
    "zero3": 3,
    "fsdp": 0,
    "tensor": 0,
}
"""DeepSpeed's ZeRO stage of each strategy, the simplest strategy first; 0 without DeepSpeed."""


SHARDS_NOTHING: tuple[Strategy, ...] = ("single", "ddp")
"""The strategies of which each rank has all states."""
SHARDS_PARAMETERS: tuple[Strategy, ...] = ("zero3", "fsdp")
"""The strategies of which each rank has a part of every parameter alone."""
SHARES_SAMPLES: tuple[Strategy, ...] = ("tensor",)
"""The strategies of which all ranks compute the same samples, each a part of every layer."""


WITHOUT_STAGE: tuple[Strategy, ...] = ("fsdp", *SHARES_SAMPLES)
"""The strategies that no stage of ZeRO names, not even 0, which names DDP."""


def data_ranks(strategy: Strategy | None, world_size: int, sequence_ranks: int) -> int:
    """Return how many of so many ranks have samples of their own, or of the groups that share one
    sequence.

    >>> data_ranks("fsdp", 4, 1), data_ranks("zero3", 4, 2), data_ranks("tensor", 4, 1)
    (4, 2, 1)
    """
    return 1 if strategy in SHARES_SAMPLES else world_size // sequence_ranks


OFFLOADS_WITH: dict[Offload, tuple[Strategy, ...]] = {
    "none": tuple(ZERO_STAGE),
    "optimizer": ("zero2", "zero3"),
    "all": ("zero3", "fsdp"),
}
"""The strategies that offload can be combined with. ZeRO-1 would offload as ZeRO-2 does and keep
more."""
