"""The layers' MLPs, as transformers 5.23 writes them, on a tape of sizes."""

from planner import operators as ops
from planner.decoder import Decoder, Layer
from planner.tensors import Tensor


def feed_forward(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """LlamaMLP.forward; GlmMLP.forward where one matrix holds gate and up."""
    tape = decoder.tape
    if decoder.workload.model.mlp == "fused-swiglu":
        both = decoder.linear(layer, "gate_up_proj", x)
        gate, up = (ops.slice_of(tape, both, both.elements // 2) for _ in range(2))
        up = ops.mul(tape, up, ops.unary(tape, gate, "silu(gate)", saves_input=True), "swiglu")
        return decoder.linear(layer, "down_proj", up)
    gate = decoder.linear(layer, "gate_proj", x)
    activated = ops.unary(tape, gate, "silu(gate)", saves_input=True)
    del gate
    up = decoder.linear(layer, "up_proj", x)
    product = ops.mul(tape, activated, up, "swiglu")
    del activated, up
    return decoder.linear(layer, "down_proj", product)
