"""DoRA's extra output of one matrix, as peft writes it, on a tape of sizes.

read: peft/tuners/lora/dora.py and variants.py at 0.21.2, DoraLinearLayer.forward: the merged weight
is made whole to take its norm, and where dropout is on, the base layer's product is made again from
that weight, whose copy autograd then keeps for backward.
"""

from collections.abc import Callable

from msgspec import Struct

from planner.hardware.cluster import Device
from planner.models.linear import Linear
from planner.tape import operators as ops
from planner.tape.tape import Tape
from planner.tape.tensors import Parameter, Tensor

Multiply = Callable[[Tensor, Tensor, int, str], Tensor]
"""``F.linear`` under the trainer's conventions, from weight, input, output features and name."""


class DoraTensors(Struct, frozen=True):
    """The trained tensors beside one matrix."""

    a: Parameter
    b: Parameter
    magnitude: Parameter
    rank: int


def dora(
    tape: Tape,
    x: Tensor,
    base_result: Tensor | None,
    weight: Tensor,
    *,
    matrix: Linear,
    adapter: DoraTensors,
    product: Multiply,
    device: Device,
) -> Tensor:
    """Return ``(m - 1) W x + m B A x``, where the scale ``m`` is magnitude over norm.

    ``weight`` is whole, in 16 bit where it was packed; where ``base_result`` is None the product
    with it is made again.
    """
    out_features, width = matrix.out_features, x.width
    lora_weight = _lora_weight(tape, matrix, adapter, product)
    lora_weight = ops.cast(tape, lora_weight, width, "adapter's weight, whole, in x's dtype")
    weight = ops.cast(tape, weight, width, "base weight in x's dtype")
    norm = _weight_norm(tape, weight, lora_weight, matrix)
    scale = _over(tape, adapter.magnitude, norm, "magnitude over norm")
    down = product(adapter.a, x, adapter.rank, "lora_A")
    lora_result = product(adapter.b, down, out_features, "lora_B")
    del down
    if base_result is None:
        base_result = product(weight, x, out_features, f"{matrix.name}, again")
    elif matrix.bias:
        base_result = ops.unary(tape, base_result, "base output without its bias")
    less = ops.unary(tape, scale, "scale - 1")
    left = ops.mul(tape, less, base_result, "scaled base output", on_rows=device)
    del less
    right = ops.mul(tape, scale, lora_result, "magnitude x adapter output", on_rows=device)
    right = ops.unary(tape, right, "scaled adapter output")
    return ops.add(tape, left, right, "DoRA output")


def _lora_weight(tape: Tape, matrix: Linear, adapter: DoraTensors, product: Multiply) -> Tensor:
    """Return ``lora_B(lora_A(eye))``, with the graph that its caller drops when it detaches it."""
    eye = tape.new(matrix.in_features**2, adapter.a.width, "identity matrix")
    down = product(adapter.a, eye, adapter.rank, "lora_A of the identity")
    return product(adapter.b, down, matrix.out_features, "adapter's weight, whole")


def _weight_norm(tape: Tape, weight: Tensor, lora_weight: Tensor, matrix: Linear) -> Tensor:
    """Return the norm of every row of the merged weight, which is not differentiated."""
    scaled = tape.new(lora_weight.elements, lora_weight.width, "adapter's weight, scaled")
    merged = tape.new(weight.elements, weight.width, "merged weight")
    del scaled
    return tape.new(matrix.out_features, merged.width, "norms of the merged weight")


def _over(tape: Tape, a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return a quotient whose divisor is a constant."""
    elements, width = a.elements, a.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}")]

    return tape.record(tape.new(elements, max(width, b.width), name), (a,), (b,), backward)
