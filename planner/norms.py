"""Normalisation layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner import operators as ops
from planner.decoder import Decoder
from planner.layer_norm import layer_norm
from planner.tensors import Tensor


def norm(decoder: Decoder, name: str, x: Tensor, size: int | None = None) -> Tensor:
    """The model's kind of norm, over ``size`` elements where it is not the hidden size."""
    size = size or decoder.workload.model.hidden_size
    if decoder.workload.model.norm == "layer":
        return layer_norm(decoder, name, x, size)
    return _rms_norm(decoder, name, x, size)


def _rms_norm(decoder: Decoder, name: str, x: Tensor, size: int) -> Tensor:
    """LlamaRMSNorm.forward."""
    tape, width = decoder.tape, x.width
    label = name.rpartition(".")[2]
    x = ops.cast(tape, x, ops.FP32, f"{label}: input in fp32")
    variance = ops.mean_square(tape, x, rows=x.elements // size)
    x = ops.mul(tape, x, ops.reciprocal_root(tape, variance), f"{label}: normalised in fp32")
    weight = decoder.parameter(name, size)
    return ops.mul(tape, weight, ops.cast(tape, x, width), f"{label}: output")
