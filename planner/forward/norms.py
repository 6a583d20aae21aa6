"""Normalisation layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner.forward.decoder import Decoder
from planner.forward.layer_norm import layer_norm
from planner.tape import operators as ops
from planner.tape.tensors import Tensor


def norm(decoder: Decoder, name: str, x: Tensor, size: int | None = None) -> Tensor:
    """A norm over ``size`` elements where it is not the hidden size."""
    size = size or decoder.workload.model.hidden_size
    if decoder.workload.model.norm == "layer":
        return layer_norm(decoder, name, x, size)
    if decoder.workload.model.norm == "rms-plus-one":
        return _gemma_norm(decoder, name, x, size)
    return _rms_norm(decoder, name, x, size)


def _rms_norm(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """LlamaRMSNorm.forward; Olmo2RMSNorm.forward where the weight is applied in fp32."""
    tape, width = decoder.tape, x.width
    label = name.rpartition(".")[2]
    x = ops.cast(tape, x, ops.FP32, f"{label}: input in fp32")
    variance = ops.mean_square(tape, x, rows=x.elements // size)
    x = ops.mul(tape, x, ops.reciprocal_root(tape, variance), f"{label}: normalised in fp32")
    weight = decoder.parameter(name, size)
    if decoder.workload.model.norm == "rms-fp32":
        return ops.cast(tape, ops.mul(tape, weight, x, f"{label}: scaled in fp32"), width)
    return ops.mul(tape, weight, ops.cast(tape, x, width), f"{label}: output")


def _gemma_norm(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """GemmaRMSNorm.forward."""
    tape, width = decoder.tape, x.width
    label = name.rpartition(".")[2]
    output = _gemma_normalised(
        decoder, label, ops.cast(tape, x, ops.FP32, f"{label}: input in fp32"), size
    )
    weight = ops.cast(tape, decoder.parameter(name, size), ops.FP32, f"{label}: weight in fp32")
    weight = ops.unary(tape, weight, f"{label}: 1 + weight")
    output = ops.mul(tape, output, weight, f"{label}: scaled in fp32")
    del weight
    return ops.cast(tape, output, width, f"{label}: output")


def _gemma_normalised(decoder: Decoder, label: str, x: Tensor, size: int) -> Tensor:
    """GemmaRMSNorm._norm."""
    tape = decoder.tape
    root = ops.reciprocal_root(tape, ops.mean_square(tape, x, rows=x.elements // size))
    return ops.mul(tape, x, root, f"{label}: normalised in fp32")
