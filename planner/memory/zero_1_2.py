"""What DeepSpeed's ZeRO-1 and ZeRO-2 hold on the most loaded rank, buffer by buffer.

read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8, DeepSpeedZeroOptimizer:

    weights            __init__: the parameters of an optimizer group become views of one flat
                       buffer, padded to two elements a rank; on the device where it has room
                       for both, else by way of host memory
    optimizer states   __init__: the master copy of the rank's part, in fp32 or bf16, and the
                       optimizer's own
    buckets            setup_buckets: two where communication overlaps, from the first
                       gradient of a backward pass to its end, and no longer
    gradients          copy_grads_in_partition: one buffer for the parameters that a rank's
                       part touches, whole even where it touches a piece of them; with
                       accumulation a second one beside it in the later micro-batches.
                       ZeRO-1 also keeps every gradient that is larger than a bucket until
                       backward ends, and all of them from one micro-batch to the next
    a reduction        planner/memory/zero_reductions.py
    offload            the fp32 copy, its gradient and the optimizer's states are in host memory;
                       a buffer for the largest gradient stays on the device
                       (temp_grad_buffer_for_gpu_offload), and each gradient is there in fp64
                       for its norm, then in fp32, when it is reduced
                       (set_norm_for_param_grad_in_gpu,
                       async_inplace_copy_grad_to_fp32_buffer_from_gpu)
    the setup          initialize_optimizer_states: a gradient of zeros for every part's copy, all
                       gone before the first step
    the step           get_grad_norm_direct: each gradient in fp64, one at a time; step: the
                       rank's gradients made flat, then in the master copy's dtype if that is
                       another, before the buffer is freed, and what the optimizer makes for a flat
                       part (planner/memory/optimizer_step.py)
"""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from planner.base.bounded_cache import bounded_cache
from planner.base.units import block, round_up
from planner.hardware.cluster import Device
from planner.memory.optimizer_step import OptimizerStep, update_of
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import OptimizerSection, ZeroSection
from planner.workload.dtypes import Numerics
from planner.workload.optimizers import StatesBytes, states_bytes
from planner.workload.parameters import Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.trained_tensors import TrainedTensor
from planner.workload.workload import Workload

NORM_BYTES = 8
"""Bytes per element of a gradient whose norm is taken, in fp64; read:
deepspeed/runtime/zero/utils.py, get_norm_dtype."""
START_ALIGNMENT = 2
"""Elements that each rank's part is a multiple of; read: stage_1_and_2.py,
nccl_start_alignment_factor."""


class Partition(Struct, frozen=True):
    """Sizes in elements of one optimizer group, flat and cut into equal parts."""

    flat: int
    part: int
    touched: tuple[int, ...]
    """Elements of the parameters that each rank's part touches, whole."""
    pieces: tuple[int, ...]
    """Elements of the longest stretch of one parameter inside each rank's part."""
    largest: int
    """Elements of the largest parameter."""


def partition(group: tuple[Sized, ...], ranks: int) -> Partition:
    """Return how a group is cut for so many ranks.

    read: stage_1_and_2.py, get_data_parallel_partitions and get_partition_info.
    """
    flat = round_up(sum(each.elements for each in group), START_ALIGNMENT * ranks)
    part = flat // ranks
    touched, pieces = [0] * ranks, [0] * ranks
    largest = start = 0
    for each in group:
        end = start + each.elements
        first, last = start // part, (end - 1) // part
        largest = max(largest, each.elements)
        for rank in range(first, last + 1):
            touched[rank] += each.elements
            piece = min(end, (rank + 1) * part) - max(start, rank * part)
            pieces[rank] = max(pieces[rank], piece)
        start = end
    return Partition(
        flat=flat,
        part=part,
        touched=tuple(touched),
        pieces=tuple(pieces),
        largest=largest,
    )


@cached_by_settings(*TRAINED)
def partitions(workload: Workload, ranks: int) -> tuple[Partition, ...]:
    """Return how each optimizer group is cut for so many ranks."""
    return tuple(partition(group, ranks) for group in parameters(workload).optimizer_groups)


def flat_tensor(elements: int) -> TrainedTensor:
    """Return a part of a group as an optimizer sees it: one vector."""
    return TrainedTensor((elements,), "vector")


def flat_states_bytes(
    optimizer: OptimizerSection, parts: Iterable[int], width: int, device: Device
) -> StatesBytes:
    """Return the bytes of the optimizer's own states for parts of so many elements, which have
    ``width`` bytes each."""
    tensors = Counter(flat_tensor(part) for part in parts)
    return states_bytes(optimizers()[optimizer.name], tensors, width=width, device=device)


def flat_update(
    optimizer: OptimizerSection, part: int, width: int, device: Device
) -> OptimizerStep:
    """Return the update of one part of so many elements, without its gradient."""
    return update_of(
        optimizers()[optimizer.name],
        flat_tensor(part),
        width=width,
        weight_decay=optimizer.weight_decay,
        device=device,
    )


@bounded_cache
def flat_update_bytes(optimizer: OptimizerSection, part: int, width: int, device: Device) -> int:
    """Return the most bytes that the optimizer allocates while it updates one part."""
    return flat_update(optimizer, part, width, device).num_bytes


def flattened_bytes(elements: int, kinds: Numerics, update: int) -> int:
    """Return the bytes of gradients flat, then as the master copy's dtype has them; the first is
    gone when the update runs."""
    cast = block(elements * kinds.home)
    copied = block(elements * kinds.gradient) if kinds.gradient < kinds.home else 0
    return cast + max(copied, update)


class FlatStates(Struct, frozen=True):
    """Bytes of what stages 1 and 2 hold flat, and of what passes through it."""

    optimizer: OptimizerSection
    device: Device
    partitions: tuple[Partition, ...]
    zero: ZeroSection
    kinds: Numerics
    offloaded: bool
    """Whether gradients, fp32 copies and the optimizer's states are in host memory."""

    @property
    def weights_bytes(self) -> int:
        """Bytes of the flat trained parameters."""
        return sum(block(each.flat * self.kinds.trainable) for each in self.partitions)

    @property
    def own_states_bytes(self) -> int:
        """Bytes of the optimizer's own states for the rank's parts."""
        if self.offloaded:
            return 0
        parts = [each.part for each in self.partitions]
        return flat_states_bytes(self.optimizer, parts, self.kinds.home, self.device).on_device

    @property
    def copies_bytes(self) -> int:
        """Bytes of the master copy of the rank's parts."""
        if self.offloaded:
            return 0
        return sum(block(each.part * self.kinds.home) for each in self.partitions)

    @property
    def setup_bytes(self) -> int:
        """Bytes of the zero gradients of every part with which the optimizer's states are made."""
        return self.copies_bytes

    @property
    def gradients_bytes(self) -> int:
        """Bytes of the buffer of the rank whose part touches most."""
        by_rank = zip(*(each.touched for each in self.partitions), strict=True)
        return block(max(sum(sizes) for sizes in by_rank) * self.kinds.gradient)

    @property
    def buckets_bytes(self) -> int:
        """Bytes of both reduction buckets."""
        return 2 * block(self.zero.reduce_bucket_size * self.kinds.gradient)

    @property
    def held_buffer_bytes(self) -> int:
        """Bytes of the buffer through which gradients go to host memory, if that is where they are
        kept."""
        if not self.offloaded:
            return 0
        return block(max(each.largest for each in self.partitions) * self.kinds.gradient)

    @property
    def stepping_rank(self) -> int:
        """Number of the rank that holds the most during a step."""
        ranks = range(len(self.partitions[0].touched))
        return max(ranks, key=lambda rank: self.touched_bytes(rank) + self._step_bytes(rank))

    @property
    def step_bytes(self) -> int:
        """Bytes of a step on the rank that holds the most during it."""
        return self._step_bytes(self.stepping_rank)

    def touched_bytes(self, rank: int) -> int:
        """Bytes of a rank's buffer of gradients."""
        if self.offloaded:
            return 0
        return block(sum(each.touched[rank] for each in self.partitions) * self.kinds.gradient)

    def _step_bytes(self, rank: int) -> int:
        """Return the larger of a norm and of the gradients flat and in fp32, one group at a
        time."""
        if self.offloaded:
            return 0
        return max(
            max(block(each.pieces[rank] * NORM_BYTES), self._flattened_bytes(each))
            for each in self.partitions
        )

    def _flattened_bytes(self, each: Partition) -> int:
        update = flat_update_bytes(self.optimizer, each.part, self.kinds.home, self.device)
        return flattened_bytes(each.part, self.kinds, update)


def flat_states(
    workload: Workload,
    ranks: int,
    zero: ZeroSection,
    kinds: Numerics,
    *,
    offloaded: bool,
    device: Device,
) -> FlatStates:
    """Return the flat states of a workload on so many ranks."""
    return FlatStates(
        optimizer=workload.settings.optimizer,
        device=device,
        partitions=partitions(workload, ranks),
        zero=zero,
        kinds=kinds,
        offloaded=offloaded,
    )
