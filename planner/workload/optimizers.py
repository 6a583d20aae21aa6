"""What an optimizer keeps for each trained tensor between steps, and where it is."""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from planner.base.units import FP32_BYTES, block, ceil_div
from planner.hardware.cluster import Device
from planner.plan.optimizer_presets import OptimizerSpec
from planner.workload.trained_tensors import TrainedTensor

SCALAR_BYTES = 4
FLAG_BYTES = 1
"""Bytes of what stands for no compensation; read: optimi/stableadamw.py at 0.3.3, _init_state."""
NUM_GROUPS = 2
"""Groups of parameters, even where no parameter decays; read: transformers/trainer.py at 5.23.0,
create_optimizer."""
PROJECTED_RANK = 128
"""read: transformers/trainer_optimizer.py at 5.23.0, _get_apollo_optimizer."""
QUANTIZED_BLOCK = 256
"""Number of elements that share a scale in an 8-bit state, and in a 4-bit one: transformers hands
torchao the same; read: transformers/trainer_optimizer.py at 5.23.0, _get_torchao_optimizer."""
SMALLEST_QUANTIZED = 4096
"""read: bitsandbytes/optim/optimizer.py at 0.50.2, min_8bit_size; torchao/optim/adam.py at 0.18.0,
_new_buffer."""
QUANTIZATION_MAP_ELEMENTS = 256
"""Values of the one table per state that tensors share; read: fill_qmap and init_state there."""
MAPPED_BITS = {"mapped_8bit": 8, "mapped_4bit": 4}
"""Bits of a code that each tensor has a table of its own for."""
SMALLEST_PAGED = 100_000
"""Elements from which states are paged; read: bitsandbytes/optim/optimizer.py at 0.50.2,
get_state_buffer."""


StateRole = Literal["value", "scale", "table", "counter"]
"""``value``: a number per trained element, or per row and column of a matrix. ``scale``: a number
per block of values. ``table``: the values that codes stand for. ``counter``: a scalar
per trained tensor."""


class OptimizerState(Struct, frozen=True):
    """One tensor that lives from step to step."""

    elements: int
    width: int
    """Bytes of one element."""
    role: StateRole
    paged: bool = False
    """Whether it is CUDA managed memory, which the allocator does not count."""

    @property
    def num_bytes(self) -> int:
        """Bytes that the optimizer asks for."""
        return self.elements * self.width

    @property
    def block_bytes(self) -> int:
        """Bytes of the block that the allocator gives."""
        return block(self.num_bytes)


def tensor_states(
    optimizer: OptimizerSpec, tensor: TrainedTensor, *, width: int, device: Device
) -> list[OptimizerState]:
    """Return the states of one trained tensor whose elements have ``width`` bytes."""
    paged = optimizer.paged and tensor.elements >= SMALLEST_PAGED and device == "cuda"
    states = [
        OptimizerState(elements, size, "value", paged)
        for elements, size in _values(optimizer, tensor, width)
    ]
    if is_quantized(optimizer, tensor):
        blocks = ceil_div(tensor.elements, QUANTIZED_BLOCK)
        states += [
            OptimizerState(share * blocks, FP32_BYTES, "scale") for share in optimizer.tensor_shares
        ]
    if is_mapped(optimizer, tensor):
        scales = OptimizerState(tensor.elements // QUANTIZED_BLOCK, FP32_BYTES, "scale")
        table = OptimizerState(2 ** MAPPED_BITS[optimizer.kept_in], FP32_BYTES, "table")
        states += [scales, table] * optimizer.states
    states += [
        OptimizerState(1, size, "counter") for size in _scalars(optimizer, tensor, width, device)
    ]
    on_device = optimizer.counter == "device" or (optimizer.counter, device) == ("host", "cpu")
    if on_device:
        states.append(OptimizerState(1, SCALAR_BYTES, "counter"))
    return states


def _scalars(
    optimizer: OptimizerSpec, tensor: TrainedTensor, width: int, device: Device
) -> list[int]:
    """Return the bytes of each scalar beside the values."""
    if is_projected(optimizer, tensor):
        return [width]
    if optimizer.kept_in != "compensated":
        return []
    of_kernels = [SCALAR_BYTES] if width < FP32_BYTES else [SCALAR_BYTES, FLAG_BYTES]
    return [width, *(of_kernels if device == "cuda" else [])]


def _values(optimizer: OptimizerSpec, tensor: TrainedTensor, width: int) -> list[tuple[int, int]]:
    """Return elements and bytes per element of each tensor of values."""
    if optimizer.kept_in == "factored" and len(tensor.shape) > 1:
        rows, columns = tensor.shape[-2:]
        stacked = tensor.elements // (rows * columns)
        return [(stacked * rows, FP32_BYTES), (stacked * columns, FP32_BYTES)]
    if is_projected(optimizer, tensor):
        return [(elements, width) for elements in projected_elements(tensor)]
    if is_mapped(optimizer, tensor):
        codes_per_byte = 8 // MAPPED_BITS[optimizer.kept_in]
        return [(tensor.elements // codes_per_byte, 1)] * optimizer.states
    if optimizer.kept_in in ("parameter", "compensated", "projected", *MAPPED_BITS):
        size = width
    else:
        size = 1 if is_quantized(optimizer, tensor) else FP32_BYTES
    return [(share * tensor.elements, size) for share in value_shares(optimizer, width)]


def value_shares(optimizer: OptimizerSpec, width: int) -> tuple[int, ...]:
    """Return the size of each tensor of values, in sizes of a parameter of ``width`` bytes per
    element."""
    shares = optimizer.tensor_shares
    if optimizer.kept_in == "compensated" and width < FP32_BYTES:
        shares += (1,)
    return shares


def is_projected(optimizer: OptimizerSpec, tensor: TrainedTensor) -> bool:
    """Return whether the optimizer keeps states of a projection of the tensor's gradient."""
    return optimizer.kept_in == "projected" and tensor.role == "matrix"


def projected_elements(tensor: TrainedTensor) -> tuple[int, int, int]:
    """Return the elements of a matrix's projection, and twice those of what it projects to.

    read: apollo_torch/random_projector.py at 1.0.3, project: the longer side stays.
    """
    longer, shorter = max(tensor.shape), min(tensor.shape)
    return PROJECTED_RANK * shorter, PROJECTED_RANK * longer, PROJECTED_RANK * longer


def is_quantized(optimizer: OptimizerSpec, tensor: TrainedTensor) -> bool:
    """Return whether the optimizer keeps 8-bit states of the tensor.

    read: transformers/trainer.py at 5.23.0, create_optimizer, for the embedding.
    """
    large = tensor.elements >= SMALLEST_QUANTIZED
    return optimizer.kept_in == "8bit" and large and tensor.role != "embedding"


def is_mapped(optimizer: OptimizerSpec, tensor: TrainedTensor) -> bool:
    """Return whether the optimizer keeps codes and a table for the tensor alone."""
    return optimizer.kept_in in MAPPED_BITS and has_even_blocks(tensor)


def has_even_blocks(tensor: TrainedTensor) -> bool:
    """Return whether torchao quantizes the tensor's states.

    read: torchao/optim/adam.py at 0.18.0, _new_buffer.
    """
    return tensor.elements >= SMALLEST_QUANTIZED and tensor.elements % QUANTIZED_BLOCK == 0


def shared_states(
    optimizer: OptimizerSpec, tensors: Iterable[TrainedTensor], device: Device
) -> list[OptimizerState]:
    """Return the tables that the states of all tensors share, and scalars of the groups of
    transformers' trainer: counters, or the learning rate where it is a tensor, which accelerate
    puts on the device.

    read: torchao/optim/adam.py at 0.18.0, add_param_group; accelerate/optimizer.py at 1.15.0,
    AcceleratedOptimizer.__init__.
    """
    if optimizer.kept_in in MAPPED_BITS:
        return [OptimizerState(1, SCALAR_BYTES, "counter")] * NUM_GROUPS
    if optimizer.kept_in == "compensated" and device == "cpu":
        return [OptimizerState(1, SCALAR_BYTES, "counter")] * NUM_GROUPS
    if any(is_quantized(optimizer, tensor) for tensor in tensors):
        table = OptimizerState(QUANTIZATION_MAP_ELEMENTS, FP32_BYTES, "table")
        return [table] * len(optimizer.tensor_shares)
    return []


class StatesBytes(Struct, frozen=True):
    """Bytes of all optimizer states."""

    on_device: int
    """Bytes that the allocator counts."""
    paged: int
    """Bytes of managed memory, which the driver moves between device and host."""


def states_bytes(
    optimizer: OptimizerSpec, tensors: Mapping[TrainedTensor, int], *, width: int, device: Device
) -> StatesBytes:
    """Return the bytes of all states of ``tensors``, which counts the tensors of each kind."""
    counted = [(state, 1) for state in shared_states(optimizer, tensors, device)]
    for tensor, count in tensors.items():
        for state in tensor_states(optimizer, tensor, width=width, device=device):
            counted.append((state, count))
    return StatesBytes(
        on_device=sum(count * state.block_bytes for state, count in counted if not state.paged),
        paged=sum(count * state.num_bytes for state, count in counted if state.paged),
    )
