"""bitsandbytes' LLM.int8 products on a tape of sizes.

read: bitsandbytes/autograd/_functions.py at 0.50.2: MatMul8bitLt, and on the CPU MatMul8bitFp;
bitsandbytes/backends/cuda/ops.py and backends/default/ops.py for what their operators allocate.
Both hold the input in their context, which autograd does not empty: it stays until the loss,
and with it the graph, is gone. Columns of outliers depend on the data: none is counted.
"""

from planner.base.units import FP32_BYTES
from planner.models.linear import Linear
from planner.tape.tape import Tape
from planner.tape.tensors import Node, Tensor
from planner.workload.workload import Batch

INT8, HALF, INT32 = 1, 2, 4
"""Bytes per element."""


def int8_linear(tape: Tape, x: Tensor, matrix: Linear, *, batch: Batch, is_half: bool) -> Tensor:
    """Return a product with an int8 matrix, which is dequantized for backward, on the CPU for both
    passes.

    ``is_half`` is whether the input is in fp16, so that nothing is cast.
    """
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _weight = _dequantized(tape, matrix, width)
        _multiplies(tape, matrix, elements, width)
        return [tape.new(elements, width, f"gradient of {matrix.name}'s input")]

    multiply = _multiply_whole if batch.device == "cpu" else _multiply_integers
    output = multiply(tape, x, matrix, is_half=is_half)
    tape.record(output, (x,), (x,), backward)
    if isinstance(output.node, Node):
        output.node.in_context = True
    return output


def _multiply_integers(tape: Tape, x: Tensor, matrix: Linear, *, is_half: bool) -> Tensor:
    """Mirror int8_vectorwise_quant of the input, int8_linear_matmul, and int8_mm_dequant in
    fp16."""
    rows = x.elements // matrix.in_features
    half = x if is_half else tape.new(x.elements, HALF, "input in fp16")
    scales = tape.new(rows, FP32_BYTES, "scales of the input's rows")
    codes = tape.new(x.elements, INT8, "input in int8")
    magnitudes = tape.new(x.elements, HALF, "magnitudes of the input")
    outliers = tape.new(x.elements, INT8, "outliers of the input")
    del magnitudes
    del outliers, half
    _multiplies(tape, matrix, x.elements, INT8)
    product = tape.new(rows * matrix.out_features, INT32, f"{matrix.name} in int32")
    output = tape.new(product.elements, HALF, matrix.name)
    if not is_half:
        output = tape.new(product.elements, x.width, matrix.name)
    del product, codes, scales
    return output


def _multiply_whole(tape: Tape, x: Tensor, matrix: Linear, *, is_half: bool) -> Tensor:
    """Mirror ``F.linear`` with the matrix in the input's dtype, whichever that is."""
    del is_half
    _weight = _dequantized(tape, matrix, x.width)
    _multiplies(tape, matrix, x.elements, x.width)
    return tape.new(x.elements // matrix.in_features * matrix.out_features, x.width, matrix.name)


def _multiplies(tape: Tape, matrix: Linear, elements: int, width: int) -> None:
    rows = elements // matrix.in_features
    made = rows * matrix.out_features
    moved = elements + matrix.weight_params + made
    tape.multiplies(2 * rows * matrix.weight_params, moved * width, width)


def _dequantized(tape: Tape, matrix: Linear, width: int) -> Tensor:
    tape.dequantizes(matrix.weight_params * (INT8 + width))
    weight = tape.new(matrix.weight_params, width, "dequantized weight", "workspace")
    _scales = tape.new(matrix.out_features, FP32_BYTES, "scales over 127", "workspace")
    return weight
