"""Linear layers and weights of published runs that no plan can express."""

from typing import Literal

from planner.base.units import FP32_BYTES, ceil_div
from planner.forward.decoder import Decoder
from planner.models.linear import Linear
from planner.tape import operators as ops
from planner.tape.tensors import Parameter, Tensor

GROUP = 128
"""Weights of a column that share a scale and a zero point: the group size of Qwen's checkpoints."""
OUTSIDE = ("embed_tokens", "lm_head")


class TrainedOutside(Decoder):
    """PEFT's modules_to_save: copies of the embedding and the head train, in their own dtype."""

    def parameter(
        self, name: str, elements: int, *, adapter: bool = False, matrix: bool = False
    ) -> Parameter:
        if name in OUTSIDE and name not in self.weights:
            self.weights[name] = Parameter(elements, self.numerics.outside, trains=True)
        return Decoder.parameter(self, name, elements, adapter=adapter, matrix=matrix)


class Gptq4(Decoder):
    """AutoGPTQ's QuantLinear without its kernels, which unpacks a matrix and saves it for backward.

    read: auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py at 0.5, forward: integers are shifted
    as int32, kept in int8 (int16 where a weight has 8 bits), then scaled to fp16.
    """

    def _base(self, name: str, matrix: Linear, x: Tensor, **_layout: bool) -> Tensor:
        return unpacked_product(self, matrix, x, integer=1)


class Gptq8(Decoder):
    def _base(self, name: str, matrix: Linear, x: Tensor, **_layout: bool) -> Tensor:
        return unpacked_product(self, matrix, x, integer=2)


def unpacked_product(decoder: Decoder, matrix: Linear, x: Tensor, *, integer: int) -> Tensor:
    tape, n, width = decoder.tape, matrix.weight_params, decoder.numerics.compute
    shifted = tape.new(n, FP32_BYTES, "packed weight, shifted")
    whole = tape.new(n, integer, "packed weight as integers")
    del shifted
    whole = tape.new(n, integer, "weight as integers")
    less_zeros = tape.new(n, integer, "weight less its zero points")
    weight = tape.new(n, width, "unpacked weight")
    del whole, less_zeros
    x = ops.cast(tape, x, width, f"{matrix.name}: input cast")
    elements, needed = x.elements, x.node is not None
    rows = elements // matrix.in_features
    work = 2 * rows * n, width * (elements + n + rows * matrix.out_features), width
    tape.multiplies(*work)
    output = tape.new(rows * matrix.out_features, width, matrix.name)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        tape.multiplies(*work)
        return [tape.new(elements, width, f"gradient of {matrix.name}'s input")]

    output = tape.record(output, (x,), (weight,) if needed else (), backward)
    return ops.unary(tape, output, f"{matrix.name} with its bias") if matrix.bias else output


def gptq_sizes(decoder: type[Decoder], matrix: Linear) -> list[int]:
    """Return the bytes of a matrix' codes, scales, zero points and group indices."""
    bits: Literal[4, 8] = 4 if decoder is Gptq4 else 8
    groups = ceil_div(matrix.in_features, GROUP) * matrix.out_features
    return [
        matrix.weight_params * bits // 8,
        groups * 2,
        groups * bits // 8,
        matrix.in_features * 4,
    ]
