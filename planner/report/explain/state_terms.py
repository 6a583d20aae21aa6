"""Terms of weights, gradients and optimizer states, which are counted from the model's shape."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from planner.base.phrases import Phrase
from planner.base.units import block
from planner.hardware.cluster import Device
from planner.plan.optimizer_presets import OptimizerSpec
from planner.report.explain.terms import Count, Expression, Term, bytes_of, total
from planner.workload.dtypes import Numerics
from planner.workload.optimizers import (
    OptimizerState,
    StateRole,
    shared_states,
    tensor_states,
    value_shares,
)
from planner.workload.quantization import quantized_tensors
from planner.workload.trained_tensors import TrainedTensor
from planner.workload.workload import Workload

SHAPE = Phrase("counted from the shape (planner/models/model_spec.py)")
VERA = Phrase("arXiv:2310.11454, section 3.2 (planner/workload/workload.py)")
LORA = Phrase("arXiv:2106.09685, section 4.1 (planner/workload/workload.py)")
QUANTIZATION = {
    "nf4": Phrase("arXiv:2305.14314, section 3 (planner/workload/quantization.py)"),
    "int8": Phrase("arXiv:2208.07339, section 3 (planner/workload/quantization.py)"),
}
ROLES: dict[StateRole, str] = {
    "value": Phrase("numbers"),
    "scale": Phrase("blocks of quantized numbers"),
    "table": Phrase("values of the shared table"),
    "counter": Phrase("scalars"),
}
CODES = {"nf4": Phrase("NF4 codes"), "int8": Phrase("int8 codes")}


def blocks(elements: Expression, width: int) -> Expression:
    """Return one tensor of so many elements of ``width`` bytes, as the allocator gives it."""
    asked = elements * bytes_of(width) if width > 1 else elements
    return filled_blocks(asked, [asked.value])


def blocks_each(
    elements: Expression, width: int, tensors: Mapping[TrainedTensor, int]
) -> Expression:
    """Return ``elements`` of ``width`` bytes that lie in ``tensors``, each a block of its own."""
    sizes = (tensor.elements * width for tensor in Counter(tensors).elements())
    return filled_blocks(elements * bytes_of(width), sizes)


def filled_blocks(asked: Expression, sizes: Iterable[int]) -> Expression:
    """Return the bytes that are asked for, in blocks of ``sizes``, and what fills the blocks."""
    lost = sum(block(size) - size for size in sizes)
    return total(asked, _padding(lost))


def _padding(num_bytes: int) -> Count:
    return Count(num_bytes, Phrase("bytes that fill the allocator's blocks"))


def trained_elements(workload: Workload) -> Expression:
    """Return how many numbers train: all parameters, or the rows and columns of LoRA's matrices
    and DoRA's magnitudes, or VeRA's vectors."""
    adapter = workload.settings.adapter
    if workload.method == "full" or adapter is None:
        return Count(workload.model.num_params, Phrase("parameters"))
    if adapter.vera:
        outputs = sum(count * x.out_features for x, count in workload.counted_adapted)
        number = Count(
            sum(count for _, count in workload.counted_adapted), Phrase("adapted matrices")
        )
        ranks = Count(adapter.rank, Phrase("VeRA rank"), leads=True) * number
        return total(ranks, Count(outputs, Phrase("rows of adapted matrices")))
    sides = outputs = 0
    for matrix, count in workload.counted_adapted:
        sides += count * (matrix.in_features + matrix.out_features)
        outputs += count * matrix.out_features if adapter.dora else 0
    low_rank = Count(adapter.rank, Phrase("LoRA rank"), leads=True) * Count(
        sides, Phrase("rows and columns of adapted matrices")
    )
    return total(low_rank, Count(outputs, Phrase("magnitudes")))


def frozen_terms(workload: Workload, kinds: Numerics) -> Iterator[Term]:
    """Yield the terms of frozen weights that are whole on the device."""
    model, quantization = workload.model, workload.settings.quantization
    routed = model.routed_params - workload.packed_expert_params
    rest = Count(model.unquantized_params - model.routed_params, Phrase("parameters")) * bytes_of(
        kinds.outside
    )
    experts = Count(routed, Phrase("parameters")) * bytes_of(
        kinds.frozen if quantization is None else kinds.outside
    )
    if quantization is None:
        matrices = Count(model.matrix_params, Phrase("weights")) * bytes_of(kinds.frozen)
        yield Term(name=Phrase("matrices"), bytes=matrices, source=SHAPE)
    else:
        yield from _quantized_terms(workload)
    if routed:
        name: str = Phrase("routed experts")
        if workload.packed_expert_params:
            name = Phrase("routers, and experts that are not packed")
        yield Term(name=name, bytes=experts, source=SHAPE)
    yield Term(name=Phrase("embeddings, head, norms and biases"), bytes=rest, source=SHAPE)
    if model.fp32_params and kinds.kept > kinds.outside:
        wider = Count(model.fp32_params, Phrase("parameters")) * bytes_of(
            kinds.kept - kinds.outside
        )
        yield Term(name=Phrase("what stays in fp32, beyond that"), bytes=wider, source=SHAPE)
    if any(workload.shared_matrices):
        shared = filled_blocks(
            Count(sum(workload.shared_matrices), Phrase("weights")) * bytes_of(kinds.shared),
            [each * kinds.shared for each in workload.shared_matrices],
        )
        yield Term(
            name=Phrase("random matrices that VeRA's adapters share"), bytes=shared, source=VERA
        )


def _quantized_terms(workload: Workload) -> Iterator[Term]:
    quantization = workload.settings.quantization
    assert quantization is not None
    sizes: list[tuple[int, ...]] = [
        tuple(count * num_bytes for num_bytes in quantized_tensors(matrix, quantization))
        for matrix, count in workload.counted_packed
    ]
    codes, *constants = (sum(column) for column in zip(*sizes, strict=True))
    source = QUANTIZATION[quantization.quant_type]
    num_weights = sum(count * matrix.weight_params for matrix, count in workload.counted_packed)
    weights = Count(num_weights, Phrase("weights"))
    packed: Expression = weights * bytes_of(1)
    if quantization.quant_type == "nf4":
        odd = Count(2 * codes - num_weights, Phrase("to fill the last byte of matrices"))
        packed = total(weights, odd) / Count(2, Phrase("per byte"))
    yield Term(name=CODES[quantization.quant_type], bytes=packed, source=source)
    names = (Phrase("scales"), Phrase("constants and tables"))[: len(constants)]
    for name, num_bytes in zip(names, constants, strict=True):
        yield Term(name=name, bytes=bytes_of(num_bytes), source=source)


def optimizer_states(
    optimizer: OptimizerSpec,
    tensors: Mapping[TrainedTensor, int],
    *,
    width: int,
    device: Device,
    paged: bool = False,
) -> Expression:
    """Return the optimizer's states of the allocator's memory, or those of managed memory."""
    counted = Counter(shared_states(optimizer, tensors, device))
    for tensor, count in tensors.items():
        for state in tensor_states(optimizer, tensor, width=width, device=device):
            counted[state] += count
    there = {state: count for state, count in counted.items() if state.paged == paged}
    sizes: Counter[tuple[StateRole, int]] = Counter()
    for state, count in there.items():
        sizes[state.role, state.width] += count * state.elements
    addends = [
        _numbers(optimizer, role, elements, size) * bytes_of(size)
        for (role, size), elements in sizes.items()
    ]
    return total(*addends, *([] if paged else [_padding(_lost(there))]))


def _numbers(optimizer: OptimizerSpec, role: StateRole, elements: int, width: int) -> Expression:
    """Return the elements of one role, by state where each tensor has several alike."""
    shares = value_shares(optimizer, width)
    states = len(shares) if role == "table" else sum(shares)
    if role == "counter" or states == 1 or optimizer.kept_in == "projected":
        return Count(elements, ROLES[role])
    return Count(elements // states, ROLES[role]) * Count(states, Phrase("states"))


def _lost(states: Mapping[OptimizerState, int]) -> int:
    return sum(count * (state.block_bytes - state.num_bytes) for state, count in states.items())
