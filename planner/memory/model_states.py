"""Parameters, gradients and optimizer states on the most loaded rank.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
arXiv:1910.02054, section 3.1 and Figure 1.

    Psi   number of parameters
    N_d   data_parallel_size
    K     optimizer bytes per parameter; mixed-precision Adam keeps an fp32 weight,
          momentum and variance, so K = 4 + 4 + 4

    stage   parameters    gradients     optimizer states
      0       2 Psi         2 Psi          K Psi
      1       2 Psi         2 Psi          K Psi / N_d
      2       2 Psi         2 Psi / N_d    K Psi / N_d
      3       2 Psi / N_d   2 Psi / N_d    K Psi / N_d

Beyond the paper, Psi is split into trainable and frozen parameters, and only a trainable one has a
gradient and optimizer states; where nothing is sharded each tensor is a block of the allocator; and
the states are those of the plan's optimizer.
"""

from collections.abc import Mapping

from msgspec import Struct

from planner.base.units import block, ceil_div
from planner.hardware.cluster import Device
from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.plan.vocabulary import ZeroStage
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.optimizers import states_bytes
from planner.workload.quantization import quantized_bytes
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.trained_tensors import TrainedTensor, counted_tensors
from planner.workload.workload import Workload


class ModelStates(Struct, frozen=True):
    """Bytes of one rank's model states."""

    frozen_bytes: int
    trainable_bytes: int
    gradients_bytes: int
    optimizer_states_bytes: int
    """Bytes of optimizer states in the allocator's memory."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all states."""
        return (
            self.frozen_bytes
            + self.trainable_bytes
            + self.gradients_bytes
            + self.optimizer_states_bytes
        )


def sharded(num_bytes: int, *, zero_stage: ZeroStage, from_stage: int, ranks: int) -> int:
    """Return the largest shard if ``zero_stage`` shards what stages from ``from_stage`` on do, else
    the whole."""
    return ceil_div(num_bytes, ranks) if zero_stage >= from_stage else num_bytes


def model_states(
    *,
    frozen_bytes: int,
    tensors: Mapping[TrainedTensor, int],
    optimizer: OptimizerSpec,
    numerics: Numerics,
    zero_stage: ZeroStage,
    data_parallel_size: int,
    device: Device,
) -> ModelStates:
    """Return the bytes by the table at the top of this module."""
    if zero_stage == 0:
        states = states_bytes(optimizer, tensors, width=numerics.home, device=device)
        return ModelStates(
            frozen_bytes=frozen_bytes,
            trainable_bytes=blocks_bytes(tensors, numerics.trainable),
            gradients_bytes=blocks_bytes(tensors, numerics.gradient),
            optimizer_states_bytes=blocks_bytes(tensors, numerics.master) + states.on_device,
        )

    def shard(from_stage: int, num_bytes: int) -> int:
        return sharded(
            num_bytes, zero_stage=zero_stage, from_stage=from_stage, ranks=data_parallel_size
        )

    # read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8, single_partition_of_fp32_groups:
    # DeepSpeed hands the optimizer its shard of the master copy, as one tensor.
    params = sum(count * tensor.elements for tensor, count in tensors.items())
    flat = TrainedTensor((ceil_div(params, data_parallel_size),), "vector")
    states = states_bytes(optimizer, {flat: 1}, width=numerics.home, device=device)
    return ModelStates(
        frozen_bytes=shard(3, frozen_bytes),
        trainable_bytes=shard(3, numerics.trainable * params),
        gradients_bytes=shard(2, numerics.gradient * params),
        optimizer_states_bytes=numerics.master * flat.elements + states.on_device,
    )


def least_states_bytes(workload: Workload, layout: Layout, device: Device) -> int:
    """Return the least bytes on the most loaded rank while the optimizer steps, without padding.

    ZeRO-1 has handed on the gradients of other ranks' parts by then, as ZeRO-2 has; what is
    offloaded is elsewhere, and DeepSpeed never shards a quantized model.
    """
    if layout.offload == "all":
        return 0
    if layout.strategy == "fsdp":
        return _least_of_shards(workload, numerics_of(workload, layout), layout.shard_ranks, device)
    workload = workload.of_a_rank(layout)
    states = _states(
        workload,
        numerics_of(workload, layout),
        2 if layout.zero_stage == 1 else layout.zero_stage,
        layout.world_size,
        device,
    )
    if layout.offload == "none":
        return states.total_bytes
    return states.frozen_bytes + states.trainable_bytes


@cached_by_settings(*TRAINED, "optimizer")
def _least_of_shards(workload: Workload, kinds: Numerics, ranks: int, device: Device) -> int:
    """Return the bytes of weights, gradients and states, if shards were equal and their scales
    were, too."""
    tensors = counted_tensors(workload)
    trained = sum(count * tensor.elements for tensor, count in tensors.items())
    states = states_bytes(
        optimizers()[workload.settings.optimizer.name], tensors, width=kinds.home, device=device
    )
    whole = frozen_bytes(workload, kinds) + 2 * kinds.home * trained + states.on_device
    return whole // ranks


@cached_by_settings(*TRAINED, "optimizer")
def _states(
    workload: Workload, kinds: Numerics, zero_stage: ZeroStage, ranks: int, device: Device
) -> ModelStates:
    return model_states(
        frozen_bytes=frozen_bytes(workload, kinds),
        tensors=counted_tensors(workload),
        optimizer=optimizers()[workload.settings.optimizer.name],
        numerics=kinds,
        zero_stage=zero_stage,
        data_parallel_size=ranks,
        device=device,
    )


def blocks_bytes(tensors: Mapping[TrainedTensor, int], width: int) -> int:
    """Return the bytes of a tensor of ``width`` bytes per element for each of ``tensors``, in
    blocks."""
    return sum(count * block(tensor.elements * width) for tensor, count in tensors.items())


def frozen_bytes(workload: Workload, numerics: Numerics) -> int:
    """Return the bytes of all frozen weights on one device, unsharded: matrices of the layers as
    they are quantized, the rest in 16 bit, what transformers keeps in fp32 in that; and what
    adapters share."""
    quantization, model = workload.settings.quantization, workload.model
    if workload.method == "full":
        return model.untrained_params * numerics.trainable
    rest = model.unquantized_params * numerics.outside
    rest += model.fp32_params * (numerics.kept - numerics.outside)
    rest += sum(block(each * numerics.shared) for each in workload.shared_matrices)
    if quantization is None:
        experts = model.routed_params * (numerics.frozen - numerics.outside)
        return model.matrix_params * numerics.frozen + rest + experts
    packed = sum(
        count * quantized_bytes(matrix, quantization) for matrix, count in workload.counted_packed
    )
    return packed + rest - workload.packed_expert_params * numerics.outside
