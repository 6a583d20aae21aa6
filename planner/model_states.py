"""Parameters, gradients and optimizer states on the most loaded rank.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", arXiv:1910.02054, section 3.1 and Figure 1.

    Psi   number of parameters
    N_d   data_parallel_size
    K     optimizer bytes per parameter; mixed-precision Adam keeps an fp32 weight,
          momentum and variance, so K = 4 + 4 + 4

    stage   parameters    gradients     optimizer states
      0       2 Psi         2 Psi          K Psi
      1       2 Psi         2 Psi          K Psi / N_d
      2       2 Psi         2 Psi / N_d    K Psi / N_d
      3       2 Psi / N_d   2 Psi / N_d    K Psi / N_d

Our one step beyond the paper: Psi is split into trainable and frozen parameters, and only
a trainable one has a gradient and optimizer states.
"""

from dataclasses import dataclass

from planner.numerics import Numerics
from planner.plan import ZeroStage
from planner.quantization import nf4_bytes
from planner.recipe import Workload
from planner.units import ceil_div

ADAM_MOMENTS_BYTES = 8
"""Momentum and variance in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStates:
    frozen_bytes: int
    trainable_bytes: int
    gradients_bytes: int
    optimizer_states_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.frozen_bytes
            + self.trainable_bytes
            + self.gradients_bytes
            + self.optimizer_states_bytes
        )


def sharded(num_bytes: int, *, zero_stage: ZeroStage, from_stage: int, ranks: int) -> int:
    """The largest shard where this stage shards, the whole where it does not."""
    return ceil_div(num_bytes, ranks) if zero_stage >= from_stage else num_bytes


def model_states(
    *,
    frozen_bytes: int,
    trainable_params: int,
    numerics: Numerics,
    zero_stage: ZeroStage,
    data_parallel_size: int,
) -> ModelStates:
    """Bytes by the table at the top of this module."""

    def shard(from_stage: int, num_bytes: int) -> int:
        return sharded(
            num_bytes, zero_stage=zero_stage, from_stage=from_stage, ranks=data_parallel_size
        )

    optimizer_bytes_per_param = numerics.master + ADAM_MOMENTS_BYTES
    return ModelStates(
        frozen_bytes=shard(3, frozen_bytes),
        trainable_bytes=shard(3, numerics.trainable * trainable_params),
        gradients_bytes=shard(2, numerics.gradient * trainable_params),
        optimizer_states_bytes=shard(1, optimizer_bytes_per_param * trainable_params),
    )


def frozen_bytes(workload: Workload, numerics: Numerics) -> int:
    """All frozen weights on one device, unsharded: 16 bit, or NF4 for the layers' matrices."""
    quantization, model = workload.recipe.quantization, workload.model
    rest = model.unquantized_params * numerics.outside
    if workload.method == "full":
        return 0
    if quantization is None:
        experts = model.routed_params * (numerics.frozen - numerics.outside)
        return model.matrix_params * numerics.frozen + rest + experts
    packed = sum(
        count * nf4_bytes(num_weights=x.weight_params, double_quant=quantization.double_quant)
        for x, count in model.counted_linears
    )
    return packed + rest
