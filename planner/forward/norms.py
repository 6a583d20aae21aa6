"""Normalisation layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def norm(decoder: Decoder, name: str, x: Tensor, size: int | None = None) -> Tensor:
    """Return ``x`` through the model's norm over ``size`` elements, the hidden size where it is
    None."""
    size = size or decoder.workload.model.hidden_size
    if decoder.workload.model.norm == "layer":
        return layer_norm(decoder, name, x, size)
    if decoder.workload.model.norm == "layer-fp32":
        return _layer_norm_in_fp32(decoder, name, x, size)
    if decoder.workload.model.norm in ("rms-plus-one", "rms-power"):
        return _gemma_norm(decoder, name, x, size)
    return _rms_norm(decoder, name, x, size)


def _rms_norm(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """Mirror LlamaRMSNorm.forward; Olmo2RMSNorm.forward and NemotronHRMSNorm.forward where the
    weight is applied in fp32."""
    tape, width, device = decoder.tape, x.width, decoder.batch.device
    label = name.rpartition(".")[2]
    x = ops.cast(tape, x, FP32_BYTES, f"{label}: input in fp32")
    variance = ops.mean_square(tape, x, rows=x.elements // size)
    x = ops.mul(tape, x, ops.reciprocal_root(tape, variance), f"{label}: normalised in fp32")
    weight: Tensor = decoder.parameter(name, size)
    if decoder.workload.model.norm == "rms-fp32-weight":
        weight = ops.cast(tape, weight, FP32_BYTES, f"{label}: weight in fp32")
    if decoder.workload.model.norm in ("rms-fp32", "rms-fp32-weight"):
        scaled = ops.mul(tape, weight, x, f"{label}: scaled in fp32", on_rows=device)
        return ops.cast(tape, scaled, width)
    return ops.mul(tape, weight, ops.cast(tape, x, width), f"{label}: output", on_rows=device)


def _gemma_norm(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """Mirror GemmaRMSNorm.forward, and Gemma4RMSNorm.forward, which adds no one to the weight."""
    tape, width = decoder.tape, x.width
    label = name.rpartition(".")[2]
    output = _gemma_normalised(decoder, label, x, size)
    weight = ops.cast(tape, decoder.parameter(name, size), FP32_BYTES, f"{label}: weight in fp32")
    if decoder.workload.model.norm == "rms-plus-one":
        weight = ops.unary(tape, weight, f"{label}: 1 + weight")
    device = decoder.batch.device
    output = ops.mul(tape, output, weight, f"{label}: scaled in fp32", on_rows=device)
    del weight
    return ops.cast(tape, output, width, f"{label}: output")


def _gemma_normalised(decoder: Decoder, label: str, x: Tensor, size: int) -> Tensor:
    """Mirror GemmaRMSNorm._norm of ``x`` in fp32, and Gemma4RMSNorm._norm, whose root is
    ``torch.pow(mean_squared, -0.5)``."""
    tape, rows = decoder.tape, x.elements // size
    x = ops.cast(tape, x, FP32_BYTES, f"{label}: input in fp32")
    if decoder.workload.model.norm == "rms-power":
        mean = ops.mean_square(tape, x, rows=rows)
        mean = ops.unary(tape, mean, "mean square + eps")
        root = ops.power(tape, mean)
    else:
        root = ops.reciprocal_root(tape, ops.mean_square(tape, x, rows=rows))
    return ops.mul(tape, x, root, f"{label}: normalised in fp32")


def unweighted_norm(decoder: Decoder, x: Tensor, name: str, size: int) -> Tensor:
    """Mirror Llama4TextL2Norm.forward, and Gemma4RMSNorm.forward without a scale."""
    normalised = _gemma_normalised(decoder, name, x, size)
    return ops.cast(decoder.tape, normalised, x.width, f"{name}: output")


def _layer_norm_in_fp32(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """Mirror CohereLayerNorm.forward, which subtracts the mean twice."""
    tape, width, rows = decoder.tape, x.width, x.elements // size
    label = name.rpartition(".")[2]
    x = ops.cast(tape, x, FP32_BYTES, f"{label}: input in fp32")
    mean = ops.mean(tape, x, rows=rows)
    variance = ops.mean_square(tape, views.subtract(tape, x, mean, f"{label}: centred"), rows=rows)
    centred = views.subtract(tape, x, mean, f"{label}: centred")
    root = ops.reciprocal_root(tape, variance)
    x = ops.mul(tape, centred, root, f"{label}: normalised in fp32")
    del centred, root
    weight = ops.cast(tape, decoder.parameter(name, size), FP32_BYTES, f"{label}: weight in fp32")
    device = decoder.batch.device
    x = ops.mul(tape, weight, x, f"{label}: scaled in fp32", on_rows=device)
    del weight
    return ops.cast(tape, x, width, f"{label}: output")


def layer_norm(
    decoder: Decoder, name: str, x: Tensor, size: int, *, has_bias: bool = False
) -> Tensor:
    """Mirror ``nn.LayerNorm`` over ``size`` elements; one with a bias where all have one, or this
    one has.

    read: ATen/autocast_mode.h at 2.13: on CUDA autocast computes it in fp32, parameters too; the
    CPU's list does not name it.
    """
    model, tape = decoder.workload.model, decoder.tape
    weight: Tensor = decoder.parameter(name, size)
    parameters = [weight]
    if model.norm_bias or has_bias:
        parameters.append(decoder.parameter(f"{name}.bias", size))
    on_cuda = decoder.batch.device == "cuda"
    label = name.rpartition(".")[2]
    if on_cuda and decoder.numerics.autocast:
        x = ops.cast(tape, x, FP32_BYTES, f"{label}: input in fp32")
        parameters = [
            ops.cast(tape, p, FP32_BYTES, f"{label}: parameter in fp32") for p in parameters
        ]
    statistics = FP32_BYTES if on_cuda else weight.width
    return _normalised(tape, x, parameters, x.elements // size, statistics, label)


def _normalised(
    tape: Tape, x: Tensor, parameters: list[Tensor], rows: int, statistics: int, label: str
) -> Tensor:
    """Mirror ``native_layer_norm``: input, parameters, mean and reciprocal deviation are saved.

    read: aten/src/ATen/native/cuda/layer_norm_kernel.cu at 2.13: the statistics are fp32 for 16-bit
    inputs; layer_norm.cpp: elsewhere they have the dtype of the parameters.
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
