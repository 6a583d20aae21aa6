"""Gated short convolutions, as transformers 5.23 writes them, on a tape of sizes."""

from planner.forward.decoder import Decoder, Layer
from planner.forward.recurrent.convolution import convolution, without_padding
from planner.models.recurrent_shape import ShortConvolutionSpec
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tensors import Tensor


def short_convolution(
    decoder: Decoder, layer: Layer, x: Tensor, shape: ShortConvolutionSpec
) -> Tensor:
    """Mirror Lfm2ShortConv.forward, whose variables hold the projection to its end."""
    tape = decoder.tape
    x = without_padding(decoder, x)
    projected = decoder.linear(layer, "in_proj", x)
    first, second, x = views.split(tape, projected, [projected.elements // 3] * 3)
    x = ops.mul(tape, first, x, "input of the convolution, gated")
    x = convolution(
        decoder,
        layer,
        x,
        channels=shape.channels,
        kernel_size=shape.kernel_size,
        bias=shape.bias,
        activated=False,
    )
    decoder.keep_state(shape)
    return decoder.linear(
        layer, "out_proj", ops.mul(tape, second, x, "output of the convolution, gated")
    )
