"""What DeepSpeed's ZeRO-3 holds on one rank, beside the gathered parameters, which are in
zero_3_gathering.py.

read: deepspeed/runtime/zero/stage3.py at 0.19.8, DeepSpeedZeroOptimizer_Stage3:

    weights            each frozen parameter's slice by itself; the trained ones' in one buffer
                       (_create_fp16_partitions_with_defragmentation)
    persistent         parameters of at most param_persistence_threshold elements stay whole
                       from the end of one step to the next (_post_step)
    optimizer states   fp32 copies and the optimizer's own, by sub-group (_create_fp32_partitions)
    gradients          a buffer for the rank's slices, from the start (_setup_for_real_optimizer)
    bucket             one, from the start (_setup_for_real_optimizer)
    offload            gradients, fp32 copies and the optimizer's states in host memory
                       (_configure_offloading); a gradient is on the device while it is reduced
                       (partition_grads, _offload_grad_partition_at_boundary); with offload_param
                       the slices too, each brought to the device to be gathered
                       (partition_parameters.py, _all_gather_sequential)
    the load           a module's parameters are made whole, then sliced one by one
                       (partition_parameters.py, Init); those that a checkpoint has are filled one
                       module at a time and whole, stacked experts one tensor at a time
                       (transformers/integrations/deepspeed.py at 5.23.0,
                       _load_state_dict_into_zero3_model); a quantized model is not sharded at
                       all (modeling_utils.py, needs_zero3_init)
    the setup          the largest sub-group once more in fp32 (_create_fp32_partitions,
                       initialize_optimizer_states); then, beside the bucket and the gradients,
                       each parameter that trains is gathered for its hook
                       (create_reduce_and_remove_grad_hooks)
    the save           parameters are gathered one module at a time, the persistent ones having
                       been released (engine.py, _zero3_consolidated_16bit_state_dict)
    the step           each gradient in fp64 for its norm, one at a time (get_grad_norm_direct);
                       a sub-group's gradients flat, then in fp32
                       (_prepare_fp32_grad_for_sub_group)
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from msgspec import Struct

from planner.base.units import block, ceil_div
from planner.forward.module_order import by_module, when_made
from planner.hardware.cluster import Device
from planner.memory.expert_loading import stacked_params
from planner.memory.zero_1_2 import (
    NORM_BYTES,
    flat_states_bytes,
    flat_update_bytes,
    flattened_bytes,
)
from planner.plan.schema import OptimizerSection, ZeroSection
from planner.plan.vocabulary import Offload
from planner.workload.dtypes import Numerics
from planner.workload.parameters import Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

NORM_ELEMENTS = 250_000_000
"""Elements of an offloaded gradient whose norm is taken at once; read: stage3.py,
_constant_buffered_norm2."""


class SlicedStates(Struct, frozen=True):
    """Bytes of stage 3 on one rank."""

    optimizer: OptimizerSection
    device: Device
    frozen_bytes: int
    trained_slices: int
    """Elements of the rank's slices of what trains."""
    sub_groups: tuple[int, ...]
    """Elements of each part that a step updates at once."""
    largest_slice: int
    persistent_bytes: int
    """Bytes of parameters that stay whole."""
    largest_module_bytes: int
    """Bytes of the parameters of the largest module, whole."""
    filled_bytes: int
    """Bytes of the most that is whole while a checkpoint fills it."""
    filled_slice_bytes: int
    """Bytes of the slices of that."""
    made_bytes: int
    """Bytes of what is whole while modules are made, less those of the slices that are not there
    yet."""
    largest_trained_bytes: int
    """Bytes of the largest parameter that trains, whole."""
    zero: ZeroSection
    kinds: Numerics
    offload: Offload

    @property
    def weights_bytes(self) -> int:
        """Bytes of slices of frozen parameters."""
        return 0 if self.offload == "all" else self.frozen_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes of slices of trained parameters."""
        if self.offload == "all":
            return 0
        return block(self.trained_slices * self.kinds.trainable)

    @property
    def own_states_bytes(self) -> int:
        """Bytes of the optimizer's own states for the rank's sub-groups."""
        if self.offload != "none":
            return 0
        return flat_states_bytes(
            self.optimizer, self.sub_groups, self.kinds.home, self.device
        ).on_device

    @property
    def copies_bytes(self) -> int:
        """Bytes of the master copy of the rank's sub-groups."""
        if self.offload != "none":
            return 0
        return sum(block(size * self.kinds.master) for size in self.sub_groups)

    @property
    def setup_bytes(self) -> int:
        """Bytes of a sub-group beside its copy, then of zeros for its gradient."""
        if self.offload != "none":
            return 0
        return block(max(self.sub_groups) * self.kinds.home)

    @property
    def gradients_bytes(self) -> int:
        """Bytes of the buffer for the rank's slices."""
        if self.offload != "none":
            return 0
        return block(self.trained_slices * self.kinds.gradient)

    @property
    def bucket_bytes(self) -> int:
        """Bytes of the reduction bucket."""
        return block(self.zero.reduce_bucket_size * self.kinds.gradient)

    @property
    def hooked_bytes(self) -> int:
        """Bytes of the largest parameter that trains while it is gathered for its hook: whole, and
        beside it its slice where that comes from host memory."""
        slice_bytes = block(self.largest_slice * self.kinds.compute)
        return self.largest_trained_bytes + slice_bytes * (self.offload == "all")

    @property
    def largest_loaded_bytes(self) -> int:
        """Bytes of parameters beside all slices while they are loaded. Where slices are in host
        memory, modules are made beside none, and what is filled brings its own."""
        if self.offload == "all":
            return max(self.largest_module_bytes, self.filled_bytes + self.filled_slice_bytes)
        return max(self.made_bytes, self.filled_bytes)

    @property
    def step_bytes(self) -> int:
        """Bytes of a step: the larger of a norm and of the gradients flat and in fp32, one
        sub-group at a time."""
        if self.offload != "none":
            return 0
        return max(
            block(self.largest_slice * NORM_BYTES),
            *(self._flattened_bytes(size) for size in self.sub_groups),
        )

    def _flattened_bytes(self, size: int) -> int:
        update = flat_update_bytes(self.optimizer, size, self.kinds.home, self.device)
        return flattened_bytes(size, self.kinds, update)


@cached_by_settings(*TRAINED, "optimizer")
def sliced_states(
    workload: Workload,
    ranks: int,
    zero: ZeroSection,
    kinds: Numerics,
    *,
    offload: Offload,
    device: Device,
) -> SlicedStates:
    """Return the sliced states of a workload on so many ranks."""
    every = list(parameters(workload))
    trained = [each for each in every if each.trains]
    threshold = zero.param_persistence_threshold
    filled = filled_at_once(workload)
    return SlicedStates(
        optimizer=workload.settings.optimizer,
        device=device,
        frozen_bytes=sum(
            block(ceil_div(each.elements, ranks) * kinds.frozen)
            for each in every
            if not each.trains
        ),
        trained_slices=sum(ceil_div(each.elements, ranks) for each in trained),
        sub_groups=tuple(
            size
            for group in parameters(workload).optimizer_groups
            for size in sub_groups(group, ranks, zero.sub_group_size)
        ),
        largest_slice=max(ceil_div(each.elements, ranks) for each in trained),
        persistent_bytes=sum(
            whole_parameter_bytes(each.elements, ranks, kinds.compute)
            for each in every
            if each.elements <= threshold
        ),
        largest_module_bytes=whole_bytes(largest_module(workload), ranks, kinds.compute),
        filled_bytes=whole_bytes(filled, ranks, kinds.compute),
        filled_slice_bytes=sum(_slice_bytes(each, ranks, kinds.compute) for each in filled),
        made_bytes=_made_bytes(_loaded(workload), ranks, kinds.compute),
        largest_trained_bytes=_largest_whole(trained, ranks, kinds),
        zero=zero,
        kinds=kinds,
        offload=offload,
    )


def largest_module(workload: Workload) -> list[Sized]:
    """Return the parameters of the module that has most, adapters aside."""
    modules = by_module(_loaded(workload))
    return max(modules, key=lambda module: sum(each.elements for each in module))


def filled_at_once(workload: Workload) -> list[Sized]:
    """Return the most parameters that a checkpoint fills at once: those of a module, or one tensor
    of experts that is stacked for it."""
    if not stacked_params(workload):
        return largest_module(workload)
    return [max(_loaded(workload), key=lambda each: each.elements)]


def _loaded(workload: Workload) -> list[Sized]:
    """Return the parameters that a checkpoint has: all but adapters."""
    is_full, whole = workload.method == "full", parameters(workload)
    layers = (sorted(layer, key=when_made) for layer in whole.layers)
    every = chain(whole.before, *layers, whole.after, whole.beside)
    return [each for each in every if is_full or not each.trains]


def _made_bytes(params: Sequence[Sized], ranks: int, width: int) -> int:
    """Return the most bytes while modules are made one after another, less those of all slices."""
    to_come = sum(_slice_bytes(each, ranks, width) for each in params)
    largest = 0
    for module in by_module(params):
        whole = whole_bytes(module, ranks, width)
        for each in module:
            to_come -= _slice_bytes(each, ranks, width)
            largest = max(largest, whole - to_come)
            whole -= whole_parameter_bytes(each.elements, ranks, width)
    return largest


def _slice_bytes(parameter: Sized, ranks: int, width: int) -> int:
    return block(ceil_div(parameter.elements, ranks) * width)


def whole_bytes(params: Iterable[Sized], ranks: int, width: int) -> int:
    """Return the bytes of so many whole parameters."""
    return sum(whole_parameter_bytes(each.elements, ranks, width) for each in params)


def _largest_whole(params: Iterable[Sized], ranks: int, kinds: Numerics) -> int:
    return max(whole_parameter_bytes(each.elements, ranks, kinds.compute) for each in params)


def whole_parameter_bytes(elements: int, ranks: int, width: int) -> int:
    """Return the bytes of a whole parameter with the padding that makes its slices equal."""
    return block(ceil_div(elements, ranks) * ranks * width)


def sub_groups(group: Iterable[Sized], ranks: int, sub_group_size: int) -> Iterator[int]:
    """Yield the elements of each sub-group, which is closed when it has reached the size.

    read: stage3.py, _create_fp16_sub_groups.
    """
    size = 0
    for each in group:
        size += ceil_div(each.elements, ranks)
        if size >= sub_group_size:
            yield size
            size = 0
    if size:
        yield size
