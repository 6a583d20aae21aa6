"""The short convolution in front of a recurrence, as transformers 5.23 writes it, on a tape of
sizes."""

from planner.forward.decoder import Decoder, Layer
from planner.tape import operators as ops
from planner.tape import recurrence_operators as recurrence
from planner.tape.tensors import Tensor


def without_padding(decoder: Decoder, x: Tensor) -> Tensor:
    """Mirror apply_mask_to_padding_states: the mask is None where no sample is padded."""
    if not decoder.batch.masked:
        return x
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [decoder.tape.new(elements, width, "gradient of the input without padding")]

    output = decoder.tape.new(elements, width, "input without padding")
    return decoder.tape.record(output, (x,), (decoder.token_mask,), backward)


def convolution(
    decoder: Decoder,
    layer: Layer,
    x: Tensor,
    *,
    channels: int,
    kernel_size: int,
    bias: bool = False,
    activated: bool = True,
) -> Tensor:
    """Mirror causal_conv1d_fn: autocast takes its operands in 16 bit, and keeps no copy of a view
    of the weight."""
    tape, batch, width = decoder.tape, decoder.batch, x.width
    name = f"{layer.place}.conv1d"
    weight: Tensor = decoder.parameter(name, channels * kernel_size)
    added: Tensor | None = decoder.parameter(f"{name}.bias", channels) if bias else None
    x = ops.cast(tape, x, weight.width, "convolution: input in the weight's dtype")
    if decoder.numerics.autocast:
        compute = decoder.numerics.compute
        x = ops.cast(tape, x, compute, "convolution: input cast")
        weight = ops.cast(tape, weight, compute, "convolution: weight cast")
        if added is not None:
            added = decoder.cast_weight(added, "convolution: bias cast")
    length = batch.sequence_length + kernel_size - 1
    elements = batch.micro_batch_size * length * channels
    whole = recurrence.convolved(tape, x, weight, added, elements)
    x = ops.slice_of(tape, whole, batch.tokens * channels)
    del whole
    if activated:
        x = ops.unary(tape, x, "silu of the convolution", saves="input")
    return ops.cast(tape, x, width, "convolution, cast")
