"""Normalisation layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner import operators as ops
from planner.decoder import Decoder
from planner.tensors import Tensor


def norm(decoder: Decoder, name: str, x: Tensor, size: int | None = None) -> Tensor:
    """LlamaRMSNorm.forward, over ``size`` elements where it is not the hidden size."""
    tape, width = decoder.tape, x.width
    label = name.rpartition(".")[2]
    size = size or decoder.workload.model.hidden_size
    x = ops.cast(tape, x, ops.FP32, f"{label}: input in fp32")
    variance = ops.mean_square(tape, x, rows=x.elements // size)
    x = ops.mul(tape, x, ops.reciprocal_root(tape, variance), f"{label}: normalised in fp32")
    weight = decoder.parameter(name, size)
    return ops.mul(tape, weight, ops.cast(tape, x, width), f"{label}: output")
