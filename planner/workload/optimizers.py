"""What an optimizer keeps for each trained tensor between steps, and where it is."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from planner.base.units import ALLOCATOR_BLOCK_BYTES, FP32_BYTES, ceil_div, round_up
from planner.hardware.cluster import Device
from planner.plan.optimizer_presets import OptimizerSpec
from planner.workload.trained_tensors import TrainedTensor

SCALAR_BYTES = 4
QUANTIZED_BLOCK = 256
"""Number of elements that share a scale in an 8-bit state."""
SMALLEST_QUANTIZED = 4096
"""Elements from which a tensor's states are quantized; read: bitsandbytes/optim/optimizer.py at
0.50.2, min_8bit_size."""
QUANTIZATION_MAP_BYTES = 256 * FP32_BYTES
"""Bytes of one state's table of codes, shared by all tensors; read: fill_qmap and
init_state there."""
SMALLEST_PAGED = 100_000
"""Elements from which states are paged; read: bitsandbytes/optim/optimizer.py at 0.50.2,
get_state_buffer."""


class OptimizerState(NamedTuple):
    """One tensor that an optimizer keeps from step to step."""

    num_bytes: int
    paged: bool = False
    """Whether it is in CUDA managed memory, which the allocator does not count."""

    @property
    def block_bytes(self) -> int:
        """Bytes that the allocator gives for it."""
        return round_up(self.num_bytes, ALLOCATOR_BLOCK_BYTES)


def tensor_states(
    optimizer: OptimizerSpec, tensor: TrainedTensor, *, width: int, device: Device
) -> list[OptimizerState]:
    """Return the states of one trained tensor whose elements have ``width`` bytes."""
    sizes = _sizes(optimizer, tensor, width)
    paged = optimizer.paged and tensor.elements >= SMALLEST_PAGED and device == "cuda"
    states = [OptimizerState(size, paged) for size in sizes.states]
    states += [OptimizerState(size) for size in sizes.scales]
    on_device = optimizer.counter == "device" or (optimizer.counter, device) == ("host", "cpu")
    if on_device:
        states.append(OptimizerState(SCALAR_BYTES))
    return states


class _Sizes(NamedTuple):
    states: list[int]
    scales: list[int]


def _sizes(optimizer: OptimizerSpec, tensor: TrainedTensor, width: int) -> _Sizes:
    elements, count = tensor.elements, optimizer.states
    if optimizer.kept_in == "parameter":
        return _Sizes([width * elements] * count, [])
    if is_quantized(optimizer, tensor):
        blocks = ceil_div(elements, QUANTIZED_BLOCK)
        return _Sizes([elements] * count, [FP32_BYTES * blocks] * count)
    if optimizer.kept_in == "factored" and len(tensor.shape) > 1:
        rows, columns = tensor.shape[-2:]
        stacked = elements // (rows * columns)
        return _Sizes([FP32_BYTES * stacked * rows, FP32_BYTES * stacked * columns], [])
    return _Sizes([FP32_BYTES * elements] * count, [])


def is_quantized(optimizer: OptimizerSpec, tensor: TrainedTensor) -> bool:
    """Return whether the optimizer keeps 8-bit states of the tensor.

    read: transformers/trainer.py at 5.23.0, create_optimizer, for the embedding.
    """
    large = tensor.elements >= SMALLEST_QUANTIZED
    return optimizer.kept_in == "8bit" and large and tensor.role != "embedding"


def shared_states(
    optimizer: OptimizerSpec, tensors: Iterable[TrainedTensor]
) -> list[OptimizerState]:
    """Return the tables that the states of all tensors share."""
    if any(is_quantized(optimizer, tensor) for tensor in tensors):
        return [OptimizerState(QUANTIZATION_MAP_BYTES)] * optimizer.states
    return []


class StatesBytes(NamedTuple):
    """Bytes of all optimizer states."""

    on_device: int
    """Bytes that the allocator counts."""
    paged: int
    """Bytes of managed memory, which the driver moves between device and host."""


def states_bytes(
    optimizer: OptimizerSpec, tensors: Mapping[TrainedTensor, int], *, width: int, device: Device
) -> StatesBytes:
    """Return the bytes of all states of ``tensors``, which counts the tensors of each kind."""
    counted = [(state, 1) for state in shared_states(optimizer, tensors)]
    for tensor, count in tensors.items():
        for state in tensor_states(optimizer, tensor, width=width, device=device):
            counted.append((state, count))
    return StatesBytes(
        on_device=sum(count * state.block_bytes for state, count in counted if not state.paged),
        paged=sum(count * state.num_bytes for state, count in counted if state.paged),
    )
