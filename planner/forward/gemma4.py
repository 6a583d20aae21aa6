"""Decoder layers of Gemma 4, as transformers 5.23 writes them, on a tape of sizes."""

from planner.forward.decoder import Decoder, KeysAndValues, Layer
from planner.forward.feed_forward import activate, gated_mlp
from planner.forward.mixtures.experts import grouped_experts, softmax_choice
from planner.forward.norms import norm, unweighted_norm
from planner.forward.rotary import Tables, turned
from planner.forward.self_attention import attend
from planner.models.expert_shape import ExpertsSpec
from planner.models.model_spec import PER_LAYER_PROJECTION
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.embedding_operator import embedding
from planner.tape.tensors import Parameter, Storage, Tensor


def gemma4_layer(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables, gate: Tensor | None
) -> Tensor:
    """Mirror Gemma4TextDecoderLayer.forward, whose variables hold what its experts read and
    wrote; ``gate`` is the layer's part of the per-layer inputs."""
    place, tape, residual = layer.place, decoder.tape, x
    graph: list[Storage] = []
    with tape.saved_again(graph):
        x = norm(decoder, f"{place}.input_layernorm", x)
    x, _weights = gemma_attention(decoder, layer, x, tables, graph)
    del graph
    x = norm(decoder, f"{place}.post_attention_layernorm", x)
    x = ops.add(tape, residual, x, "residual after attention")
    residual = x
    x = norm(decoder, f"{place}.pre_feedforward_layernorm", x)
    x = gated_mlp(decoder, layer, x)
    experts = decoder.workload.model.experts
    if experts is not None:
        first = norm(decoder, f"{place}.post_feedforward_layernorm_1", x)
        _probabilities, scores, chosen = _router(decoder, layer, residual, experts)
        second = norm(decoder, f"{place}.pre_feedforward_layernorm_2", residual)
        second = grouped_experts(decoder, layer, second, scores, chosen, experts)
        second = norm(decoder, f"{place}.post_feedforward_layernorm_2", second)
        x = ops.add(tape, first, second, "MLP and experts")
    x = norm(decoder, f"{place}.post_feedforward_layernorm", x)
    x = ops.add(tape, residual, x, "residual after the MLP")
    if gate is not None:
        residual = x
        x = decoder.linear(layer, "per_layer_input_gate", x)
        activation = decoder.workload.model.activation
        x = activate(tape, activation, x, pow_width=decoder.pow_width)
        x = ops.mul(tape, x, gate, "per-layer input, gated")
        x = decoder.linear(layer, "per_layer_projection", x)
        x = norm(decoder, f"{place}.post_per_layer_input_norm", x)
        x = ops.add(tape, residual, x, "residual after the per-layer input")
    return views.scaled_in_place(tape, x, "layer's output, scaled")


def gemma_attention(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables, graph: list[Storage]
) -> tuple[Tensor, Tensor | None]:
    """Mirror Gemma4TextAttention.forward and Gemma3nTextAttention.forward; ``graph`` is what a
    layer that runs again has saved before, which shared keys and values keep."""
    tape, size = decoder.tape, decoder.workload.model.heads(layer.kind).head_dim
    q = decoder.linear(layer, "q_proj", x)
    q = norm(decoder, f"{layer.place}.q_norm", q, size)
    q = turned(tape, q, tables)
    if layer.kind.sharing == "reads":
        shared = decoder.shared_keys[layer.kind.sliding_window]
        k, v = shared.keys, shared.values
    else:
        with tape.saved_again(graph):
            k, v = decoder.cached(*_keys_and_values(decoder, layer, x, tables))
    if layer.kind.sharing == "stores":
        decoder.shared_keys[layer.kind.sliding_window] = KeysAndValues(k, v, graph)
    attended, weights = attend(decoder, layer, q, k, v)
    return decoder.linear(layer, "o_proj", attended), weights


def _keys_and_values(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables
) -> tuple[Tensor, Tensor]:
    model = decoder.workload.model
    size = model.heads(layer.kind).head_dim
    k = v = decoder.linear(layer, "k_proj", x)
    if not model.keys_are_values(layer.kind):
        v = decoder.linear(layer, "v_proj", x)
    k = norm(decoder, f"{layer.place}.k_norm", k, size)
    k = turned(decoder.tape, k, tables)
    return k, unweighted_norm(decoder, v, "value norm", size)


def _router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror Gemma4TextRouter.forward: return the probabilities, the weights of the chosen experts,
    and their indices."""
    tape, h, place = decoder.tape, decoder.workload.model.hidden_size, layer.place
    x = unweighted_norm(decoder, x, "router norm", h)
    scale = decoder.parameter(f"{place}.router.scale", h)
    x = ops.mul(tape, x, scale, "router input, scaled", on_rows=decoder.batch.device)
    x = ops.unary(tape, x, "router input, scaled by a number")
    assert experts.router_matrix is not None
    logits = decoder.linear(layer, experts.router_matrix, x)
    probabilities, scores, chosen = softmax_choice(decoder, logits, experts, x.width)
    each = decoder.parameter(f"{place}.router.per_expert_scale", experts.num_experts)
    scales = routing.gathered_rows(tape, each, chosen, scores.elements, "scales of the experts")
    scores = ops.mul(tape, scores, scales, "weights of the chosen experts, scaled")
    return probabilities, scores, chosen


def per_layer_inputs(decoder: Decoder, x: Tensor, held: list[Tensor]) -> Tensor | None:
    """Mirror Gemma4TextModel.get_per_layer_inputs and project_per_layer_inputs: vectors from a
    table and from the embedding; None for a model without them. Gemma4Model.forward, which has
    models of images and of sound beside the text model, holds ``held`` to its end."""
    model, tape = decoder.workload.model, decoder.tape
    inputs = model.per_layer_inputs
    if model.beside is not None:
        held += _placeholders(decoder, x)
    if inputs is None:
        return None
    width = model.num_layers * inputs.size
    table = decoder.parameter("embed_tokens_per_layer", inputs.vocab_size * width)
    looked_up = _looked_up(decoder, table, width)
    if model.beside is not None:
        held.append(looked_up)
    projected = decoder.outside_linear(PER_LAYER_PROJECTION, x)
    scale = ops.unary if model.altup is None else views.scaled_in_place
    projected = scale(tape, projected, "per-layer projection, scaled")
    projected = norm(decoder, "per_layer_projection_norm", projected, inputs.size)
    total = ops.add(tape, projected, looked_up, "per-layer inputs")
    return ops.unary(tape, total, "per-layer inputs, scaled")


def _placeholders(decoder: Decoder, x: Tensor) -> list[Tensor]:
    """Return which tokens stand for images, videos, sounds and any of them, the token ids without
    those, and their embeddings where layers have inputs of their own."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    held = [tape.new(tokens, 1, "tokens of images and of sound") for _ in range(4)]
    held.append(tape.new(tokens, ops.INT64, "token ids of text"))
    if decoder.workload.model.model_type == "gemma4_unified":
        held.append(tape.new(tokens, ops.INT64, "places of images"))
    if decoder.workload.model.per_layer_inputs is not None:
        held.append(tape.new(x.elements, x.width, "embeddings of text"))
    return held


def _looked_up(decoder: Decoder, table: Parameter, width: int) -> Tensor:
    tape = decoder.tape
    batch = decoder.batch
    rows = embedding(tape, table, tokens=batch.tokens, hidden_size=width, device=batch.device)
    return ops.unary(tape, rows, "per-layer embedding, scaled")


def part_of_a_layer(decoder: Decoder) -> Tensor | None:
    """Return ``per_layer_inputs[:, :, i, :]``, a view; its gradient is as large as the whole."""
    whole = decoder.per_layer_inputs
    if whole is None:
        return None
    part = whole.elements // decoder.workload.model.num_layers
    return ops.slice_of(decoder.tape, whole, part)
