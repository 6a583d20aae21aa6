"""PyTorch's operators as bytes: what each makes, what autograd saves, what its gradient makes.

read: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp at 2.13 for
what is saved and made; where a CUDA kernel allocates inside, its own file is named.
"""

from typing import Literal

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.tape.tape import ProductKind, Tape
from planner.tape.tensors import Node, Tensor, allocated
from planner.workload.quantization import BLOCK_SIZE as NF4_BLOCK

INT64 = 8
CUDA_DROPOUT_MASK = 1
"""Bytes per element of a dropout mask on CUDA; read: aten/src/ATen/native/cuda/Dropout.cu,
native_dropout's mask is bool; on the CPU it is noise of the input's dtype."""


def cast(tape: Tape, x: Tensor, width: int, name: str = "cast") -> Tensor:
    """Return ``x.to(dtype)``: the tensor itself where it has that width already."""
    if x.width == width:
        return x
    elements, before = x.elements, x.width

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [as_width(tape, gradient, before, elements)]

    return tape.record(tape.new(elements, width, name), (x,), (), backward)


def as_width(tape: Tape, gradient: Tensor, width: int, elements: int) -> Tensor:
    """Return a gradient in its tensor's dtype; read: engine.cpp, validate_outputs."""
    if gradient.width == width:
        return gradient
    return tape.new(elements, width, "gradient cast")


def linear(
    tape: Tape,
    x: Tensor,
    weight: Tensor,
    *,
    out_features: int,
    bias: Tensor | None,
    name: str,
    keeps_input: bool = False,
) -> Tensor:
    """Return ``x @ weight.T + bias``: the input is saved for a weight that trains, and the weight
    for an input that needs a gradient."""
    elements, width, weights = x.elements, x.width, weight.elements
    rows = elements * out_features // weights
    of_input, of_weight = x.node is not None, weight.node is not None
    saved = (*((x,) if of_weight or keeps_input else ()), *((weight,) if of_input else ()))
    tape.packs(saved)
    work = 2 * rows * weights, width * (elements + weights + rows * out_features), width
    tape.multiplies(*work)
    output = tape.new(rows * out_features, width, name)

    def product(size: int, of: str, kind: ProductKind) -> Tensor:
        tape.multiplies(*work, kind=kind)
        return tape.new(size, width, f"gradient of {name}'s {of}")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [
            product(elements, "input", "product") if of_input else None,
            product(weights, "weight", "weight gradient") if of_weight else None,
            *([tape.new(out_features, width, f"gradient of {name}'s bias")] if bias else []),
        ]

    inputs = (x, weight) if bias is None else (x, weight, bias)
    return tape.record(output, inputs, saved, backward)


def quantized_linear(
    tape: Tape, x: Tensor, *, in_features: int, out_features: int, name: str
) -> Tensor:
    """Return a product with a 4-bit matrix, which is dequantized into a workspace each time.

    read: bitsandbytes/autograd/_functions.py at 0.50.2, MatMul4Bit: the packed weight is kept
    beside autograd's saved tensors. backends/cuda/ops.py, _dequant_linear_fallback: forward has its
    scales twice, before their offset is added and after; backward adds it in place.
    """
    elements, width = x.elements, x.width
    weights, rows = in_features * out_features, x.elements // in_features
    work = 2 * rows * weights, width * (elements + weights + rows * out_features), width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _weight = dequantized(tape, weights, width)
        tape.multiplies(*work)
        return [tape.new(elements, width, f"gradient of {name}'s input")]

    _first_scales = allocated(
        tape.log, weights // NF4_BLOCK * FP32_BYTES, "workspace", "scales without their offset"
    )
    _weight = dequantized(tape, weights, width)
    tape.multiplies(*work)
    return tape.record(tape.new(rows * out_features, width, name), (x,), (), backward)


def dequantized(tape: Tape, weights: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a whole matrix and before it its scales, which are made fp32 first.

    read: bitsandbytes/functional.py at 0.50.2, dequantize_4bit.
    """
    scales = tape.new(weights // NF4_BLOCK, FP32_BYTES, "scales in fp32", "workspace")
    tape.dequantizes(weights // 2 + FP32_BYTES * (weights // NF4_BLOCK) + width * weights)
    return scales, tape.new(weights, width, "dequantized weight", "workspace")


def add(tape: Tape, a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return ``a + b``, which saves nothing: both operands get the same gradient, summed for one
    that was broadcast."""
    elements, operands = a.elements, ((a.elements, a.width), (b.elements, b.width))
    output = tape.new(elements, max(a.width, b.width), name)
    needed = (a.node is not None, b.node is not None)

    def made(gradient: Tensor, size: int, width: int) -> Tensor:
        if size < elements:
            gradient = tape.new(size, gradient.width, f"gradient of {name}, summed")
        return as_width(tape, gradient.viewed(), width, size)

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [
            made(gradient, *operand) if need else None
            for operand, need in zip(operands, needed, strict=True)
        ]

    return tape.record(output, (a, b), (), backward)


def mul(tape: Tape, a: Tensor, b: Tensor, name: str, *, on_rows: Device | None = None) -> Tensor:
    """Return ``a * b``: each operand is saved for the other's gradient; a smaller one is broadcast.

    ``on_rows`` is the device where the smaller one multiplies every row, so that its gradient is a
    sum over rows.
    """
    elements, width = max(a.elements, b.elements), max(a.width, b.width)
    needed = (a.node is not None, b.node is not None)
    saved = (*((b,) if needed[0] else ()), *((a,) if needed[1] else ()))
    tape.packs(saved)
    output = tape.new(elements, width, name)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}") if n else None for n in needed]

    tape.record(output, (a, b), saved, backward)
    if on_rows == "cuda" and isinstance(output.node, Node):
        output.node.sums_rows = True
    return output


def unary(
    tape: Tape, x: Tensor, name: str, *, saves: Literal["nothing", "input", "output"] = "nothing"
) -> Tensor:
    """Return a tensor of the operand's shape, with one gradient: silu and gelu save their input,
    tanh and relu their output; negation and a product with a number save nothing."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        if saves == "input":
            tape.exponentiates()
        return [tape.new(elements, width, f"gradient of {name}")]

    if saves != "nothing":
        tape.exponentiates()
    output = tape.new(elements, width, name)
    saved = {"nothing": (), "input": (x,), "output": (output,)}[saves]
    return tape.record(output, (x,), saved, backward)


def mean_square(tape: Tape, x: Tensor, *, rows: int) -> Tensor:
    """Return ``x.pow(2).mean(-1)``."""
    return mean(tape, power(tape, x), rows=rows)


def power(tape: Tape, x: Tensor) -> Tensor:
    """Return a power of the elements.

    read: FunctionsManual.cpp, pow_backward: ``grad * (n * x.pow(n - 1))``, each factor a tensor.
    """
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _power = tape.new(elements, width, "x.pow(n - 1)")
        _times = tape.new(elements, width, "n * x.pow(n - 1)")
        return [tape.new(elements, width, "gradient of the power")]

    return tape.record(tape.new(elements, width, "power"), (x,), (x,), backward)


def mean(tape: Tape, x: Tensor, *, rows: int) -> Tensor:
    """Return ``x.mean(-1)``."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the mean, expanded")]

    return tape.record(tape.new(rows, width, "mean"), (x,), (), backward)


def deviation(tape: Tape, x: Tensor, *, rows: int) -> Tensor:
    """Return ``x.std(-1)``, which saves operand and result.

    read: FunctionsManual.cpp, std_backward and var_backward: ``(2 / N * grad) * (x - x.mean())``.
    """
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _centred = tape.new(elements, width, "operand of a deviation, centred")
        return [tape.new(elements, width, "gradient of a deviation")]

    output = tape.new(rows, width, "deviation")
    return tape.record(output, (x,), (x, output), backward)


def reciprocal_root(tape: Tape, x: Tensor) -> Tensor:
    """Return ``torch.rsqrt(x + eps)``, which is saved."""
    elements, width = x.elements, x.width
    shifted = tape.new(elements, width, "variance + eps")
    output = tape.new(elements, width, "reciprocal root mean square")
    del shifted

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the reciprocal root")]

    return tape.record(output, (x,), (output,), backward)


def dropout(tape: Tape, x: Tensor, *, device: Device) -> Tensor:
    """Return ``dropout(x)``; the mask is saved."""
    elements, width = x.elements, x.width
    mask_width = CUDA_DROPOUT_MASK if device == "cuda" else width
    tape.draws(elements, mask_width)
    mask = tape.new(elements, mask_width, "dropout mask")
    output = tape.new(elements, width, "dropout")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of dropout")]

    return tape.record(output, (x,), (mask,), backward)


def slice_of(tape: Tape, x: Tensor, elements: int) -> Tensor:
    """Return a view of a part; its gradient is as large as the whole, zero elsewhere."""
    whole, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(whole, width, "gradient of a slice")]

    view = Tensor(elements, width, x.storage, None)
    return tape.record(view, (x,), (), backward)


def concatenate(tape: Tape, parts: tuple[Tensor, ...], name: str) -> Tensor:
    """Return the parts joined, as wide as the widest; their gradients are views of the whole's."""
    sizes = [part.elements for part in parts]
    output = tape.new(sum(sizes), max(part.width for part in parts), name)

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed(size) for size in sizes]

    return tape.record(output, parts, (), backward)


def contiguous(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return a copy in another order of dimensions."""

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed()]

    return tape.record(tape.new(x.elements, x.width, name), (x,), (), backward)


def repeat_heads(tape: Tape, x: Tensor, times: int, *, shared: bool) -> Tensor:
    """Return keys or values copied for every query head of their group, or a view where one head is
    shared by all; gradients are summed."""
    if times == 1:
        return x
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of repeated heads, summed")]

    if shared:
        return tape.record(Tensor(times * elements, width, x.storage, None), (x,), (), backward)
    return tape.record(tape.new(times * elements, width, "repeated heads"), (x,), (), backward)


def matmul(tape: Tape, a: Tensor, b: Tensor, elements: int, name: str, *, rows: int) -> Tensor:
    """Return a product of two activations, ``a`` with so many rows; each is saved for the other's
    gradient."""
    sizes = ((a.elements, a.width), (b.elements, b.width))
    flops, width = 2 * elements * (a.elements // rows), a.width
    work = flops, width * (a.elements + b.elements + elements), width
    needed = (a.node is not None, b.node is not None)
    saved = (*((b,) if needed[0] else ()), *((a,) if needed[1] else ()))

    def product(size: int, width: int) -> Tensor:
        tape.multiplies(*work)
        return tape.new(size, width, f"gradient of {name}'s operand")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [product(*size) if need else None for size, need in zip(sizes, needed, strict=True)]

    tape.multiplies(*work)
    return tape.record(tape.new(elements, a.width, name), (a, b), saved, backward)
