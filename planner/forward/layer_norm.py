"""LayerNorm on a tape of sizes."""

from planner.forward.decoder import Decoder
from planner.tape import operators as ops
from planner.tape.operators import FP32
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def layer_norm(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """``nn.LayerNorm`` over ``size`` elements.

    read: ATen/autocast_mode.h at 2.13: on CUDA autocast computes it in fp32, parameters too; the
    CPU's list does not name it.
    """
    model, tape = decoder.workload.model, decoder.tape
    weight: Tensor = decoder.parameter(name, size)
    parameters = [weight]
    if model.norm_bias:
        parameters.append(decoder.parameter(f"{name}.bias", size))
    on_cuda = decoder.batch.device == "cuda"
    label = name.rpartition(".")[2]
    if on_cuda and decoder.numerics.autocast:
        x = ops.cast(tape, x, FP32, f"{label}: input in fp32")
        parameters = [ops.cast(tape, p, FP32, f"{label}: parameter in fp32") for p in parameters]
    statistics = FP32 if on_cuda else weight.width
    return _normalised(tape, x, parameters, x.elements // size, statistics, label)


def _normalised(
    tape: Tape, x: Tensor, parameters: list[Tensor], rows: int, statistics: int, label: str
) -> Tensor:
    """``native_layer_norm``: input, parameters, mean and reciprocal deviation are saved.

    read: aten/src/ATen/native/cuda/layer_norm_kernel.cu at 2.13: the statistics are fp32 for
    16-bit inputs; layer_norm.cpp: elsewhere they have the dtype of the parameters.
    """
    elements, width = x.elements, x.width
    output = tape.new(elements, width, f"{label}: output")
    mean = tape.new(rows, statistics, f"{label}: mean")
    deviation = tape.new(rows, statistics, f"{label}: reciprocal deviation")
    operands = (x, *parameters)
    sizes = [(each.elements, each.width) if each.node is not None else None for each in operands]

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(*size, f"gradient of {label}") if size else None for size in sizes]

    return tape.record(output, operands, (*operands, mean, deviation), backward)
