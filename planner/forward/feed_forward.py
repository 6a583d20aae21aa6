"""MLPs of the layers, as transformers 5.23 writes them, on a tape of sizes."""

from functools import partial
from typing import Literal

from planner.forward.decoder import Decoder, Layer
from planner.models.model_spec import Activation
from planner.tape import operators as ops
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def feed_forward(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Return the output of a layer's MLP, tile by tile where that is asked for."""
    if decoder.workload.settings.tiled_mlp:
        return _in_tiles(decoder, layer, x)
    return _whole(decoder, layer, x)


def _in_tiles(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Run the MLP on tiles of as many tokens as the hidden size (arXiv:2506.13996, section 3.1).

    Its last product is in the compute dtype under autocast, unless its matrix is quantized, which
    goes back to the input's.
    """
    from planner.tape.tiles import tile_by_tile  # few plans have tiles

    numerics, settings = decoder.numerics, decoder.workload.settings
    is_cast = numerics.autocast and settings.quantization is None
    return tile_by_tile(
        decoder.tape,
        x,
        partial(_whole, decoder, layer),
        tokens=decoder.batch.tokens,
        tile_tokens=decoder.workload.model.hidden_size,
        output_width=numerics.compute if is_cast else x.width,
    )


def _whole(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror LlamaMLP.forward; GlmMLP.forward where one matrix holds gate and up."""
    tape, activation = decoder.tape, decoder.workload.model.activation
    pow_width = decoder.pow_width
    if decoder.workload.model.mlp == "plain":
        return _plain(decoder, layer, x)
    if decoder.workload.model.mlp == "fused-swiglu":
        both = decoder.linear(layer, "gate_up_proj", x)
        gate, up = (ops.slice_of(tape, both, both.elements // 2) for _ in range(2))
        activated = activate(tape, activation, gate, pow_width=pow_width)
        up = ops.mul(tape, up, activated, "gated product")
        del activated
        return decoder.linear(layer, "down_proj", up)
    return gated_mlp(decoder, layer, x)


def gated_mlp(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror LlamaMLP.forward, of a layer or of its shared experts."""
    tape, activation = decoder.tape, decoder.workload.model.activation
    pow_width = decoder.pow_width
    gate = decoder.linear(layer, "gate_proj", x)
    activated = activate(tape, activation, gate, pow_width=pow_width)
    del gate
    up = decoder.linear(layer, "up_proj", x)
    product = ops.mul(tape, activated, up, "gated product")
    del activated, up
    return decoder.linear(layer, "down_proj", product)


def scaled_mlp(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror FalconH1MLP.forward, which multiplies the gate and its output by numbers."""
    tape, activation = decoder.tape, decoder.workload.model.activation
    up = decoder.linear(layer, "up_proj", x)
    gate = ops.unary(tape, decoder.linear(layer, "gate_proj", x), "gate, scaled")
    activated = activate(tape, activation, gate, pow_width=decoder.pow_width)
    del gate
    product = ops.mul(tape, up, activated, "gated product")
    del up, activated
    return ops.unary(tape, decoder.linear(layer, "down_proj", product), "output of the MLP, scaled")


def _plain(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror PhiMLP.forward."""
    activation, pow_width = decoder.workload.model.activation, decoder.pow_width
    x = decoder.linear(layer, "up_proj", x)
    x = activate(decoder.tape, activation, x, pow_width=pow_width)
    return decoder.linear(layer, "down_proj", x)


def activate(tape: Tape, activation: Activation, x: Tensor, *, pow_width: int | None) -> Tensor:
    """Return ``x`` through the activation: one operator of PyTorch, or several in Python; read:
    transformers/activations.py at 5.23.

    ``pow_width`` is the width of powers, None where they keep their dtype.
    """
    if activation == "gelu-new":
        return _gelu_new(tape, x, pow_width or x.width)
    if activation == "gelu-quick":
        gate = ops.unary(tape, ops.unary(tape, x, "1.702 x"), "sigmoid", saves="output")
        return ops.mul(tape, x, gate, "quick gelu")
    if activation == "relu2":
        x = ops.unary(tape, x, "relu(gate)", saves="output")
        return ops.power(tape, ops.cast(tape, x, pow_width or x.width, "x of the power"))
    saves: Literal["input", "output"] = "output" if activation == "relu" else "input"
    return ops.unary(tape, x, f"{activation}(gate)", saves=saves)


def _gelu_new(tape: Tape, x: Tensor, pow_width: int) -> Tensor:
    """Mirror NewGELUActivation: ``0.5 x (1.0 + tanh(sqrt(2 / pi) (x + 0.044715 pow(x, 3.0))))``."""
    half = ops.unary(tape, x, "x / 2")
    cube = ops.power(tape, ops.cast(tape, x, pow_width, "x of the power"))
    cube = ops.unary(tape, cube, "0.044715 x^3")
    inner = ops.add(tape, cube, x, "inner of gelu")
    del cube
    inner = ops.unary(tape, inner, "inner of gelu, scaled")
    inner = ops.unary(tape, inner, "tanh", saves="output")
    inner = ops.unary(tape, inner, "1 + tanh")
    return ops.mul(tape, half, inner, "gelu")
