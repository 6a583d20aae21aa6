"""Activation functions, as transformers 5.23 writes them, on a tape of sizes."""

from planner import operators as ops
from planner.decoder import Decoder
from planner.operators import FP32
from planner.tensors import Tensor


def activated(decoder: Decoder, x: Tensor) -> Tensor:
    """The model's activation: ``silu`` and the fused GELUs save their input."""
    kind = decoder.workload.model.activation
    if kind == "gelu_new":
        return _gelu_new(decoder, x)
    if kind == "relu":
        return _relu(decoder, x)
    return ops.unary(decoder.tape, x, kind, saves_input=True)


def _gelu_new(decoder: Decoder, x: Tensor) -> Tensor:
    """NewGELUActivation.forward, whose every step is a tensor.

    read: ATen/autocast_mode.h at 2.13: on CUDA autocast computes powers in fp32, and what they
    are added to follows.
    """
    tape, base = decoder.tape, x
    half = ops.unary(tape, x, "gelu: x / 2")
    if decoder.numerics.autocast and decoder.batch.device == "cuda":
        base = ops.cast(tape, x, FP32, "gelu: x in fp32")
    cube = ops.unary(tape, ops.power(tape, base, "x.pow(3)"), "gelu: scaled cube")
    total = ops.add(tape, cube, x, "gelu: x + scaled cube")
    del cube, base
    total = ops.unary(tape, total, "gelu: scaled sum")
    total = _tanh(decoder, total)
    total = ops.unary(tape, total, "gelu: 1 + tanh")
    return ops.mul(tape, half, total, "gelu")


def _tanh(decoder: Decoder, x: Tensor) -> Tensor:
    return _from_output(decoder, x, "gelu: tanh")


def _relu(decoder: Decoder, x: Tensor) -> Tensor:
    return _from_output(decoder, x, "relu")


def _from_output(decoder: Decoder, x: Tensor, name: str) -> Tensor:
    """An operator whose gradient follows from its result, which is saved."""
    tape, elements, width = decoder.tape, x.elements, x.width
    output = tape.new(elements, width, name)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}")]

    return tape.record(output, (x,), (output,), backward)
