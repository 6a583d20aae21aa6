"""Gemma 3n's residual streams and layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.feed_forward import activate
from planner.forward.gemma4 import gemma_attention
from planner.forward.norms import norm
from planner.forward.rotary import Tables
from planner.models.layered_shape import AltUpSpec
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tensors import Storage, Tensor


def gemma3n_layer(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables, gate: Tensor, altup: AltUpSpec
) -> Tensor:
    """Mirror Gemma3nTextDecoderLayer.forward, whose variables hold what they have got to its end;
    ``gate`` is the layer's part of the per-layer inputs."""
    place, tape = layer.place, decoder.tape
    graph: list[Storage] = []
    with tape.saved_again(graph):
        predictions = _predicted(decoder, layer, x, altup)
        active = ops.slice_of(tape, predictions, predictions.elements // altup.streams)
        normed = norm(decoder, f"{place}.input_layernorm", active)
    laurel = _laurel(decoder, layer, normed)
    attended, _weights = gemma_attention(decoder, layer, normed, tables, graph)
    del graph
    attended = norm(decoder, f"{place}.post_attention_layernorm", attended)
    gated = ops.add(tape, active, attended, "residual after attention")
    both = ops.unary(tape, ops.add(tape, gated, laurel, "attention and its path"), "both, scaled")
    fed_from = norm(decoder, f"{place}.pre_feedforward_layernorm", both)
    fed = _mlp(decoder, layer, fed_from)
    fed_normed = norm(decoder, f"{place}.post_feedforward_layernorm", fed)
    activated = ops.add(tape, both, fed_normed, "residual after the MLP")
    corrected = _corrected(decoder, layer, predictions, activated, altup)
    first = ops.slice_of(tape, corrected, activated.elements)
    first = ops.contiguous(tape, first, "first stream, cloned")
    first = _scaled(decoder, layer, first)
    first = decoder.linear(layer, "per_layer_input_gate", first)
    activation = decoder.workload.model.activation
    first = activate(tape, activation, first, pow_width=decoder.pow_width)
    first = ops.mul(tape, first, gate, "per-layer input, gated")
    first = decoder.linear(layer, "per_layer_projection", first)
    first = norm(decoder, f"{place}.post_per_layer_input_norm", first)
    others = corrected.elements - activated.elements
    return views.added_through_a_view(tape, corrected, first, "streams", part=others)


def _modalities(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror Gemma3nTextAltUp.compute_router_modalities."""
    tape, width = decoder.tape, x.width
    normed = norm(decoder, f"{layer.place}.router_norm", x)
    normed = ops.unary(tape, normed, "router input, scaled")
    routed = decoder.linear(layer, "modality_router", normed)
    routed = ops.cast(tape, routed, FP32_BYTES, "modalities in fp32")
    return ops.cast(tape, ops.unary(tape, routed, "tanh", saves="output"), width, "modalities")


def _predicted(decoder: Decoder, layer: Layer, x: Tensor, altup: AltUpSpec) -> Tensor:
    """Mirror Gemma3nTextAltUp.predict, whose product lies stream by stream within each value."""
    tape, width, streams = decoder.tape, x.width, altup.streams
    active = ops.slice_of(tape, x, x.elements // streams)
    modalities = _modalities(decoder, layer, active)
    coefficients = decoder.linear(layer, "prediction_coefs", modalities)
    given = x
    if decoder.numerics.autocast:
        compute = decoder.numerics.compute
        given = ops.cast(tape, given, compute, "streams cast")
        coefficients = ops.cast(tape, coefficients, compute, "coefficients cast")
    predictions = ops.matmul(
        tape, given, coefficients, x.elements, "predictions", rows=x.elements // streams
    )
    del given
    predictions = views.added_through_a_view(tape, predictions, x, "predictions", part=x.elements)
    ordered = ops.contiguous(tape, predictions, "predictions by stream")
    return ops.cast(tape, ordered, width, "predictions, cast")


def _corrected(
    decoder: Decoder, layer: Layer, predictions: Tensor, activated: Tensor, altup: AltUpSpec
) -> Tensor:
    """Mirror Gemma3nTextAltUp.correct, which multiplies with a clamped copy of its matrix."""
    tape, streams = decoder.tape, altup.streams
    modalities = _modalities(decoder, layer, activated)
    active = ops.slice_of(tape, predictions, activated.elements)
    innovation = views.subtract(tape, activated, active, "innovation")
    innovation = views.repeated(tape, innovation, streams, "innovation of all streams")
    matrix = decoder.parameter(f"{layer.place}.correction_coefs", streams * streams, matrix=True)
    weight = ops.unary(tape, matrix, "coefficients, clamped", saves="input")
    coefficients = decoder.product(weight, modalities, streams, "correction_coefs", cached=False)
    coefficients = ops.unary(tape, coefficients, "1 + coefficients")
    corrected = ops.mul(tape, innovation, coefficients, "correction")
    corrected = views.added_in_place(tape, corrected, predictions)
    return ops.cast(tape, corrected, activated.width, "corrected streams, cast")


def _scaled(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror Gemma3nTextAltUp.forward."""
    tape, width, size = decoder.tape, x.width, decoder.workload.model.hidden_size
    scale = decoder.parameter(f"{layer.place}.correct_output_scale", size)
    x = ops.cast(tape, x, scale.width, "first stream in the scale's dtype")
    x = ops.mul(tape, x, scale, "first stream, scaled", on_rows=decoder.batch.device)
    return ops.cast(tape, x, width, "first stream, cast")


def _laurel(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror Gemma3nTextLaurelBlock.forward."""
    output = decoder.linear(layer, "linear_left", x)
    output = decoder.linear(layer, "linear_right", output)
    normed = norm(decoder, f"{layer.place}.post_laurel_norm", output)
    return ops.add(decoder.tape, x, normed, "path beside attention")


def _mlp(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror Gemma3nTextMLP.forward."""
    tape, model = decoder.tape, decoder.workload.model
    gate = decoder.linear(layer, "gate_proj", x)
    if layer.kind.sparse:
        gate = _largest(decoder, gate)
    activated = activate(tape, model.activation, gate, pow_width=decoder.pow_width)
    up = decoder.linear(layer, "up_proj", x)
    product = ops.mul(tape, activated, up, "gated product")
    return decoder.linear(layer, "down_proj", product)


def _largest(decoder: Decoder, x: Tensor) -> Tensor:
    """Mirror Gemma3nTextMLP._gaussian_topk, which saves the number that it multiplies with."""
    tape, rows = decoder.tape, decoder.batch.tokens
    number = tape.new(1, x.width, "number of deviations")
    number.node = None
    mean = ops.mean(tape, x, rows=rows)
    deviation = ops.deviation(tape, x, rows=rows)
    cutoff = ops.add(tape, mean, ops.mul(tape, deviation, number, "deviations"), "cutoff")
    return ops.unary(
        tape, views.subtract(tape, x, cutoff, "above the cutoff"), "relu", saves="output"
    )


def streams_of(decoder: Decoder, x: Tensor, altup: AltUpSpec, held: list[Tensor]) -> Tensor:
    """Return the streams that Gemma3nTextModel.forward makes of the embeddings, all of which its
    variables hold to the end of the layers."""
    parts = [x]
    held += _projected(decoder, [x] * (altup.streams - 1), "altup_projections", parts)
    held += parts
    return ops.concatenate(decoder.tape, tuple(parts), "streams")


def joined_streams(decoder: Decoder, x: Tensor, altup: AltUpSpec) -> Tensor:
    """Return the mean of what Gemma3nTextModel.forward makes of the streams at the end."""
    tape, size = decoder.tape, x.elements // altup.streams
    first = ops.slice_of(tape, x, size)
    others = [ops.slice_of(tape, x, size) for _ in range(altup.streams - 1)]
    parts = [first]
    _held = _projected(decoder, others, "altup_unembed_projections", parts)
    whole = ops.concatenate(tape, tuple(parts), "streams at the end")
    return ops.mean(tape, whole, rows=size)


def _projected(
    decoder: Decoder, given: list[Tensor], name: str, parts: list[Tensor]
) -> list[Tensor]:
    """Append projections that are as large as the first part, and return what variables hold; they
    are in the embeddings' dtype before they are scaled."""
    tape, rows, first = decoder.tape, decoder.batch.tokens, parts[0]
    projected, width = first, decoder.residual_width

    def mean_square(x: Tensor) -> Tensor:
        x = ops.cast(tape, x, decoder.pow_width or x.width, "stream of the power")
        return ops.mean_square(tape, x, rows=rows)

    size = mean_square(first)
    size = ops.power(tape, ops.cast(tape, size, decoder.pow_width or size.width, "size"))
    for number, x in enumerate(given):
        projected = decoder.outside_linear(f"{name}.{number}", x)
        x = ops.cast(tape, projected, width, "stream, cast")
        own = ops.unary(tape, mean_square(x), "size, clamped", saves="input")
        own = ops.unary(tape, own, "root of the size", saves="output")
        x = ops.mul(tape, x, size, "stream, scaled")
        parts.append(routing.divided(tape, x, own))
    return [size, projected]
