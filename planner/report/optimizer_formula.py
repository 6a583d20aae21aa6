"""An optimizer's states and its step in words and numbers, for ``plan --explain``."""

from collections.abc import Sequence

from planner.base.units import ALLOCATOR_BLOCK_BYTES, FP32_BYTES
from planner.plan.optimizer_presets import OptimizerSpec
from planner.workload.optimizers import QUANTIZED_BLOCK, is_quantized, tensor_states
from planner.workload.trained_tensors import TrainedTensor


def states_formula(optimizer: OptimizerSpec, tensors: Sequence[TrainedTensor], width: int) -> str:
    """How many states of how many bytes, on the device and beside it."""
    terms = (
        _factored(tensors) if optimizer.kept_in == "factored" else _whole(optimizer, tensors, width)
    )
    if optimizer.counter == "device":
        terms.append(f"{len(tensors):,} scalars x {ALLOCATOR_BLOCK_BYTES} bytes")
    if not terms:
        return f"{optimizer.name}: none"
    return f"{optimizer.name}: {' + '.join(terms)}{_paged(optimizer, tensors, width)}"


def _whole(optimizer: OptimizerSpec, tensors: Sequence[TrainedTensor], width: int) -> list[str]:
    """States of every element, in one byte or in several."""
    quantized = sum(x.elements for x in tensors if is_quantized(optimizer, x))
    rest = sum(x.elements for x in tensors) - quantized
    terms = []
    if quantized:
        each = f"(1 + {FP32_BYTES}/{QUANTIZED_BLOCK}) bytes"
        terms.append(f"{quantized:,} x {optimizer.states} x {each}")
    if rest and optimizer.states:
        size = width if optimizer.kept_in == "parameter" else FP32_BYTES
        terms.append(f"{rest:,} x {optimizer.states} x {size} bytes")
    return terms


def _factored(tensors: Sequence[TrainedTensor]) -> list[str]:
    matrices = [x for x in tensors if len(x.shape) > 1]
    sides = sum(x.elements // x.shape[-1] + x.elements // x.shape[-2] for x in matrices)
    others = sum(x.elements for x in tensors if len(x.shape) == 1)
    terms = [f"{sides:,} rows and columns of {len(matrices):,} matrices x {FP32_BYTES} bytes"]
    return [*terms, f"{others:,} x {FP32_BYTES} bytes"] if others else terms


def _paged(optimizer: OptimizerSpec, tensors: Sequence[TrainedTensor], width: int) -> str:
    away = sum(
        state.num_bytes
        for tensor in tensors
        for state in tensor_states(optimizer, tensor, width=width, device="cuda")
        if state.paged
    )
    return f", of which {away:,} bytes are managed memory beside the allocator's" if away else ""
