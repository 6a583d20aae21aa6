"""Bytes per element of each kind of tensor: the launcher's conventions.

What the optimizer updates is in fp32, unless the workload trains in pure bf16.

    where it trains              frozen    trainable   gradient   master   residual stream
    one device or DDP, 16 bit    16 bit    fp32        fp32       -        16 bit (LoRA)
                                                                           fp32 (full)
    the same, pure bf16          16 bit    16 bit      16 bit     -        16 bit
    DeepSpeed (ZeRO), 16 bit     16 bit    16 bit      16 bit     fp32     16 bit
    the same, pure bf16          16 bit    16 bit      16 bit     16 bit   16 bit
    FSDP, 16 bit                 16 bit    16 bit      16 bit     fp32     16 bit
    the same, pure bf16          16 bit    16 bit      16 bit     -        16 bit
    one device or DDP, fp32      fp32      fp32        fp32       -        fp32
    DeepSpeed (ZeRO), fp32       fp32      fp32        fp32       fp32     fp32
    FSDP, fp32                   fp32      fp32        fp32       -        fp32

DeepSpeed copies what already has the dtype that its optimizer updates, too. Stage 3 would leave
that out, and compares a torch.device with a string, which is never equal
(deepspeed/runtime/zero/stage3.py at 0.19.8, _create_fp32_partitions).

ZeRO-3 replaces F.linear by a function that saves input and weight, whatever trains
(deepspeed/runtime/zero/linear.py at 0.19.8, LinearFunctionForZeroStage3): torch's own would keep a
view of the gathered weight.

Under FSDP what trains is in 16 bit while it is gathered; its master is the ranks' shards
(torch/distributed/fsdp/_fully_shard/_fsdp_api.py at 2.13, MixedPrecisionPolicy), and gradients are
reduced in the master's dtype.

Where fp32 parameters train in 16 bit on one device or under DDP, matrices are multiplied under
autocast, which casts weights and inputs. The residual stream has the dtype of the token embedding.
Other trainers keep other conventions; that is most of why estimates of one request differ by a
factor of three.
"""

from typing import Literal

from msgspec import Struct

from planner.base.units import FP32_BYTES
from planner.plan.vocabulary import Method, Precision, ZeroStage
from planner.workload.layout import Layout
from planner.workload.workload import Workload

BYTES: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": FP32_BYTES}
"""Bytes per element of each precision."""


GroupedHeads = Literal["shared", "copied"]
"""How attention without a mask is given keys and values that query heads share. ``shared``: as they
are. ``copied``: they are copied for each query head first."""


CrossEntropy = Literal[
    "labels shifted", "logits shifted in an fp32 copy", "logits shifted in fp32", "logits shifted"
]
"""What the stock loss is computed from. ``labels shifted``: all logits in fp32, against labels
moved by one (transformers since 4.49). ``logits shifted in an fp32 copy``: the loss function casts
the logits, which the model holds meanwhile, and copies all but the last (4.46 to 4.48). ``logits
shifted in fp32``: the model casts its logits and copies all but the last (before 4.46). ``logits
shifted``: the copy keeps the logits' dtype (Qwen-1)."""


class Numerics(Struct, frozen=True):
    """Bytes per element for one method under one strategy, with the conventions that go
    with them."""

    compute: int
    frozen: int
    """Bytes per element of the layers' frozen matrices, where they are not quantized."""
    outside: int
    """Bytes per element of frozen parameters that are not matrices of layers: embeddings, head,
    norms, biases. PEFT's prepare_model_for_kbit_training makes them fp32; this launcher leaves them
    alone."""
    trainable: int
    gradient: int
    master: int
    """Bytes per element of what the optimizer updates, where it is not the trainable parameter
    itself: a copy inside DeepSpeed's optimizer, or FSDP's shard; 0 where there is none."""
    residual: int
    """Bytes per element of the residual stream."""
    autocast: bool
    keeps_logits: bool = False
    """Whether the training loop holds the model's output until backward has ended."""
    keeps_linear_inputs: bool = False
    """Whether a linear layer saves its input even where its weight is frozen."""
    grouped_heads: GroupedHeads = "shared"
    """How fused attention without a mask treats query heads that share keys and values."""
    cross_entropy: CrossEntropy = "labels shifted"
    output_in_fp32: bool = False
    """Whether the model's output is copied to fp32 when forward ends, as accelerate does."""

    @property
    def kept(self) -> int:
        """Bytes per element of frozen parameters that transformers keeps in fp32, which DeepSpeed
        and FSDP cast like all others."""
        return FP32_BYTES if self.trainable == FP32_BYTES else self.outside

    @property
    def shared(self) -> int:
        """Bytes per element of VeRA's frozen matrices: as they are multiplied, so that autocast
        copies none of them."""
        return self.compute if self.autocast else self.trainable

    @property
    def home(self) -> int:
        """Bytes per element of what the optimizer updates: the copy where there is one."""
        return self.master or self.trainable


def numerics_of(workload: Workload, layout: Layout) -> Numerics:
    """Return the numerics of a workload as this launcher trains it in a layout."""
    return numerics(
        method=workload.method,
        compute=workload.compute,
        zero_stage=layout.zero_stage,
        pure=workload.pure,
        fsdp=layout.strategy == "fsdp",
    )


def numerics(
    *,
    method: Method,
    compute: Precision,
    zero_stage: ZeroStage,
    pure: bool = False,
    fsdp: bool = False,
) -> Numerics:
    """Return a row of the table at the top of this module."""
    width = BYTES[compute]
    trainable = width if zero_stage > 0 or fsdp or pure else FP32_BYTES
    home = width if pure else FP32_BYTES
    has_master = zero_stage > 0 or (fsdp and home != trainable)
    return Numerics(
        compute=width,
        frozen=width,
        outside=width,
        trainable=trainable,
        gradient=trainable,
        master=home if has_master else 0,
        residual=trainable if method == "full" else width,
        autocast=width < trainable,
        keeps_linear_inputs=zero_stage == 3,
    )
