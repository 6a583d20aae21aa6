"""The layers' MLPs, as transformers 5.23 writes them, on a tape of sizes."""

from planner import operators as ops
from planner.decoder import Decoder, Layer
from planner.gelu import activated
from planner.tensors import Tensor


def feed_forward(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """LlamaMLP.forward; GlmMLP.forward where one matrix holds gate and up."""
    tape, kind = decoder.tape, decoder.workload.model.mlp
    if kind == "plain":
        return _plain(decoder, layer, x)
    if kind == "fused-swiglu":
        both = decoder.linear(layer, "gate_up_proj", x)
        gate, up = (ops.slice_of(tape, both, both.elements // 2) for _ in range(2))
        up = ops.mul(tape, up, activated(decoder, gate), "swiglu")
        return decoder.linear(layer, "down_proj", up)
    gate = decoder.linear(layer, "gate_proj", x)
    gated = activated(decoder, gate)
    del gate
    up = decoder.linear(layer, "up_proj", x)
    product = ops.mul(tape, gated, up, "swiglu")
    del gated, up
    return decoder.linear(layer, "down_proj", product)


def _plain(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """PhiMLP.forward."""
    x = decoder.linear(layer, "up_proj", x)
    x = activated(decoder, x)
    return decoder.linear(layer, "down_proj", x)
