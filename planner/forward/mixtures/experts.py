"""Routed experts, as transformers 5.23 writes them, on a tape of sizes.

``experts_implementation`` is ``grouped_mm``, transformers' default on every device: tokens are
sorted by expert and each matrix of all experts is one operator, so that every size is known
whatever the router does: tokens x experts_per_token rows. With the loop of ``eager`` sizes depend
on the data; ``batched_mm`` copies an expert's weights for each row.

``output_router_logits`` is false, transformers' default, so that there is no load-balancing loss
and router logits are not kept.

    t  tokens     k  experts_per_token     S = t k  rows     E  num_experts     h  hidden_size
"""

from collections.abc import Mapping

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.feed_forward import activate, feed_forward
from planner.forward.mixtures.dense_experts import dense_mixture
from planner.forward.mixtures.expert_adapters import ExpertFactors, expert_factors, with_adapters
from planner.forward.mixtures.sparse_mixer import sparse_router
from planner.models.expert_shape import ExpertsSpec
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.attention_kernels import softmax
from planner.tape.sink_attention import clamped_gate, same_width_softmax
from planner.tape.tape import Tape
from planner.tape.tensors import Parameter, Tensor


def mixture(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror MixtralSparseMoeBlock.forward and Qwen3MoeSparseMoeBlock.forward; with shared experts
    those of Qwen2-MoE, and where no gate weighs them those of DeepSeek-V2 and V3."""
    if experts.dense:
        return dense_mixture(decoder, layer, x, experts)
    if experts.router == "sparse-mixer":
        return _sparse(decoder, layer, x, experts)
    if experts.shared_intermediate_size and (experts.shared_gate or experts.shared_first):
        return _after_shared(decoder, layer, x, experts)
    _logits, scores, chosen = router(decoder, layer, x, experts)
    routed = _routed(decoder, layer, x, scores, chosen, experts)
    if not experts.shared_intermediate_size:
        return routed
    shared = feed_forward(decoder, layer, x)
    return ops.add(decoder.tape, routed, shared, "routed and shared experts")


def _sparse(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror PhimoeSparseMoeBlock.forward, which multiplies its input by noise in its place."""
    if experts.jitter:
        x = views.multiplied_in_place(decoder.tape, x, "input of the experts")
    _logits, scores, chosen, x = sparse_router(decoder, layer, x, experts)
    return grouped_experts(decoder, layer, x, scores, chosen, experts)


def _routed(
    decoder: Decoder, layer: Layer, x: Tensor, scores: Tensor, chosen: Tensor, experts: ExpertsSpec
) -> Tensor:
    """Return what the experts make of the tokens, which NemotronHMoE projects to their width."""
    if not experts.latent_size:
        return grouped_experts(decoder, layer, x, scores, chosen, experts)
    x = decoder.linear(layer, "fc1_latent_proj", x)
    x = grouped_experts(decoder, layer, x, scores, chosen, experts)
    return decoder.linear(layer, "fc2_latent_proj", x)


def _after_shared(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror Qwen2MoeSparseMoeBlock.forward, and HunYuanMoEV1Moe.forward, which has no gate."""
    tape = decoder.tape
    shared = feed_forward(decoder, layer, x)
    _logits, scores, chosen = router(decoder, layer, x, experts)
    routed = grouped_experts(decoder, layer, x, scores, chosen, experts)
    if not experts.shared_gate:
        return ops.add(tape, routed, shared, "routed and shared experts")
    gate = ops.unary(
        tape, decoder.linear(layer, "shared_expert_gate", x), "sigmoid", saves="output"
    )
    shared = ops.mul(tape, gate, shared, "shared expert, weighed")
    del gate
    return ops.add(tape, routed, shared, "routed and shared experts")


def router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror MixtralTopKRouter.forward and Qwen3MoeTopKRouter.forward: return logits, the weights
    of the chosen experts, and their indices."""
    h, count = decoder.workload.model.hidden_size, experts.num_experts
    if experts.router_matrix is not None:
        logits = decoder.linear(layer, experts.router_matrix, x)
        _probabilities, scores, chosen = softmax_choice(decoder, logits, experts, x.width)
        return logits, scores, chosen
    if experts.router == "softmax-corrected":
        return _corrected_softmax_router(decoder, layer, x, experts)
    weight = decoder.expert_parameter(layer, "router", h * count)
    if experts.router in ("chosen-softmax", "chosen-softmax-fp32"):
        return _chosen_router(decoder, layer, x, experts)
    if experts.router == "fp32-softmax":
        return _fp32_router(decoder, weight, x, experts)
    if experts.router == "sigmoid":
        return _sigmoid_router(decoder, weight, x, experts)
    if experts.router == "sigmoid-fp32":
        return _ungrouped_sigmoid_router(decoder, weight, x, experts)
    if experts.router == "sigmoid-16-bit":
        return _plain_sigmoid_router(decoder, weight, x, experts)
    logits = decoder.product(weight, x, count, "router logits")
    _probabilities, scores, chosen = softmax_choice(decoder, logits, experts, x.width)
    return logits, scores, chosen


def softmax_choice(
    decoder: Decoder, logits: Tensor, experts: ExpertsSpec, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a softmax over all experts, the weights of the chosen ones, and their indices;
    ``width`` is in bytes per element of the router's input."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    probabilities = softmax(tape, logits, device=decoder.batch.device)
    scores, chosen = routing.top_k(tape, probabilities, tokens * experts.experts_per_token)
    if experts.normalized:
        scores = routing.normalized(tape, scores, tokens)
    if experts.router in ("softmax", "softmax-like-input"):
        like = logits.width if experts.router == "softmax" else width
        scores = ops.cast(tape, scores, like, "weights of the chosen experts, cast")
    return probabilities, scores, chosen


def _chosen_router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror GptOssTopKRouter.forward, and GraniteMoeTopKRouter.forward in fp32."""
    tape, chosen_per_token = decoder.tape, experts.experts_per_token
    h, count = decoder.workload.model.hidden_size, experts.num_experts
    weight = decoder.expert_parameter(layer, "router", h * count)
    bias = decoder.expert_parameter(layer, "router.bias", count) if experts.biased else None
    logits = decoder.product(weight, x, count, "router logits", bias)
    in_fp32 = experts.router == "chosen-softmax-fp32"
    if in_fp32:
        logits = ops.cast(tape, logits, FP32_BYTES, "router logits in fp32")
    values, chosen = routing.top_k(tape, logits, decoder.batch.tokens * chosen_per_token)
    scores = same_width_softmax(tape, values, device=decoder.batch.device)
    if in_fp32:
        scores = ops.cast(tape, scores, x.width, "weights of the chosen experts, cast")
    return logits, scores, chosen


def _fp32_router(
    decoder: Decoder, weight: Parameter, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror DeepseekV2TopkRouter.forward: autocast takes the operands back to 16 bit."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    count = experts.num_experts
    logits = _fp32_logits(decoder, weight, x, count)
    scores = softmax(tape, logits, device=decoder.batch.device)
    if experts.num_groups > 1:
        scores = _best_groups(tape, scores, tokens, experts)
    scores, chosen = routing.top_k(tape, scores, tokens * experts.experts_per_token)
    return logits, ops.unary(tape, scores, "weights of the chosen experts, scaled"), chosen


def _fp32_logits(decoder: Decoder, weight: Parameter, x: Tensor, count: int) -> Tensor:
    wide = ops.cast(decoder.tape, weight, FP32_BYTES, "router weight in fp32")
    x_wide = ops.cast(decoder.tape, x, FP32_BYTES, "router input in fp32")
    return decoder.product(wide, x_wide, count, "router logits")


def _corrected_softmax_router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror Ernie4_5_MoeTopKRouter.forward, which autocast leaves alone and whose variables hold
    the corrected probabilities of the chosen."""
    tape, tokens, width = decoder.tape, decoder.batch.tokens, x.width
    count = experts.num_experts
    weight = decoder.kept_parameter(layer, "router", decoder.workload.model.hidden_size * count)
    logits = ops.linear(
        tape,
        ops.cast(tape, x, FP32_BYTES, "router input in fp32"),
        ops.cast(tape, weight, FP32_BYTES, "router weight in fp32"),
        out_features=count,
        bias=None,
        name="router logits",
        keeps_input=decoder.numerics.keeps_linear_inputs,
    )
    probabilities = softmax(tape, logits, device=decoder.batch.device)
    rows = tokens * experts.experts_per_token
    correction = Tensor(count, FP32_BYTES, None, None)
    corrected = ops.add(tape, probabilities, correction, "corrected scores")
    _values, chosen = routing.top_k(tape, corrected, rows)
    del corrected
    weights = routing.gathered_rows(
        tape, probabilities, chosen, rows, "weights of the chosen experts"
    )
    total = ops.unary(tape, routing.row_sums(tape, weights, tokens), "sums, clamped", saves="input")
    weights = routing.divided(tape, weights, total)
    del total
    return logits, ops.cast(tape, weights, width, "weights of the chosen experts, cast"), chosen


def _sigmoid_router(
    decoder: Decoder, weight: Parameter, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror DeepseekV3TopkRouter.forward and Glm4MoeTopkRouter.forward."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    logits = _fp32_logits(decoder, weight, x, experts.num_experts)
    scores = ops.unary(tape, logits, "scores of the experts", saves="output")
    chosen = _corrected_choice(tape, scores, tokens, experts)
    rows = tokens * experts.experts_per_token
    weights = routing.gathered_rows(tape, scores, chosen, rows, "weights of the chosen experts")
    total = None
    if experts.normalized:
        weights, total = routing.normalized_from(tape, weights, tokens)
    weights = ops.unary(tape, weights, "weights of the chosen experts, scaled")
    del total
    return logits, weights, chosen


def _ungrouped_sigmoid_router(
    decoder: Decoder, weight: Parameter, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror MiniMaxM2TopKRouter.forward, whose variables hold the corrected scores."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    rows = tokens * experts.experts_per_token
    x = ops.cast(tape, x, weight.width, "router input in the weight's dtype")
    logits = decoder.product(weight, x, experts.num_experts, "router logits")
    del x
    in_fp32 = ops.cast(tape, logits, FP32_BYTES, "router logits in fp32")
    scores = ops.unary(tape, in_fp32, "scores of the experts", saves="output")
    del in_fp32
    _corrected = ops.add(
        tape, scores, Tensor(experts.num_experts, FP32_BYTES, None, None), "corrected scores"
    )
    _values, chosen = routing.top_k(tape, _corrected, rows)
    weights = routing.gathered_rows(tape, scores, chosen, rows, "weights of the chosen experts")
    return logits, routing.normalized(tape, weights, tokens), chosen


def _plain_sigmoid_router(
    decoder: Decoder, weight: Parameter, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror Lfm2MoeTopKRouter.forward, whose variables hold the corrected scores. CUDA's autocast
    sums in fp32, so that weights become fp32, and what they multiply."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    rows = tokens * experts.experts_per_token
    logits = decoder.product(weight, x, experts.num_experts, "router logits")
    scores = ops.unary(tape, logits, "scores of the experts", saves="output")
    _corrected = ops.add(
        tape, scores, Tensor(experts.num_experts, FP32_BYTES, None, None), "corrected scores"
    )
    _values, chosen = routing.top_k(tape, _corrected, rows)
    weights = routing.gathered_rows(tape, scores, chosen, rows, "weights of the chosen experts")
    if experts.normalized:
        weights = routing.quotient(tape, weights, tokens, sum_width=decoder.sum_width)
    return logits, ops.unary(tape, weights, "weights of the chosen experts, scaled"), chosen


def _corrected_choice(tape: Tape, scores: Tensor, tokens: int, experts: ExpertsSpec) -> Tensor:
    """Return the chosen experts. Only places are taken of the corrected scores, so that none of
    them is kept; the two best of each group are summed to choose from the best groups."""
    groups = tokens * experts.num_groups
    corrected = ops.add(
        tape, scores, Tensor(experts.num_experts, FP32_BYTES, None, None), "corrected scores"
    )
    best, _places = routing.top_k(tape, corrected, 2 * groups)
    _sums = tape.new(groups, best.width, "scores of the groups")
    del best, _places
    _chosen_groups = tape.new(tokens * experts.chosen_groups, ops.INT64, "chosen groups")
    _mask = tape.new(groups, FP32_BYTES, "mask of the groups")
    _whole = tape.new(scores.elements, FP32_BYTES, "mask of the experts")
    corrected = routing.masked(tape, corrected, "scores of the chosen groups")
    _values, chosen = routing.top_k(tape, corrected, tokens * experts.experts_per_token)
    return chosen


def _best_groups(tape: Tape, scores: Tensor, tokens: int, experts: ExpertsSpec) -> Tensor:
    """Return the scores with those outside of the largest groups at zero; the groups' maxima are
    not used again."""
    groups = tokens * experts.num_groups
    best = routing.detached_maximum(tape, scores, groups)
    _chosen = tape.new(tokens * experts.chosen_groups, ops.INT64, "chosen groups")
    _mask = tape.new(groups, best.width, "mask of the groups")
    _whole = tape.new(scores.elements, best.width, "mask of the experts")
    return routing.masked(tape, scores, "scores of the chosen groups")


def grouped_experts(
    decoder: Decoder,
    layer: Layer,
    x: Tensor,
    scores: Tensor,
    chosen: Tensor,
    experts: ExpertsSpec,
) -> Tensor:
    """Mirror grouped_mm_experts_forward of transformers/integrations/moe.py."""
    tape, h = decoder.tape, experts.width(decoder.workload.model.hidden_size)
    rows, width = chosen.elements, x.width
    factors = expert_factors(decoder, layer, experts)
    in_order, order = routing.order_of(tape, rows)
    selected = _selected(decoder, x, rows, h)
    weights = routing.gathered_rows(tape, scores, order, rows, "weights in the experts' order")
    _counted = tape.new(rows, routing.INT32, "experts in order, to count")
    _per_expert = tape.new(experts.num_experts, routing.INT32, "rows of each expert")
    offsets = tape.new(experts.num_experts, routing.INT32, "offsets of the experts' rows")
    biases = _biases(decoder, layer, experts.first, in_order, experts)
    output = _product(decoder, layer, experts.first, selected, offsets, experts, factors)
    output = output if biases is None else views.added_in_place(tape, output, biases)
    output = _activated(decoder, output, experts)
    biases = _biases(decoder, layer, "experts.down_proj", in_order, experts)
    output = _product(decoder, layer, "experts.down_proj", output, offsets, experts, factors)
    output = output if biases is None else views.added_in_place(tape, output, biases)
    weighed = ops.mul(tape, output, weights, "experts' outputs, weighed")
    back = tape.new(rows, ops.INT64, "places of the tokens")
    weighed = routing.gathered_rows(tape, weighed, back, rows * h, "experts' outputs by token")
    final = routing.summed_experts(tape, weighed, experts.experts_per_token)
    return ops.cast(tape, final, width, "sum over a token's experts, cast")


def _selected(decoder: Decoder, x: Tensor, rows: int, h: int) -> Tensor:
    """Mirror ``hidden_states[perm // num_top_k]``."""
    tokens = decoder.tape.new(rows, ops.INT64, "tokens in the experts' order")
    return routing.gathered_rows(decoder.tape, x, tokens, rows * h, "tokens in the experts' order")


def _product(
    decoder: Decoder,
    layer: Layer,
    name: str,
    x: Tensor,
    offsets: Tensor,
    experts: ExpertsSpec,
    factors: Mapping[str, ExpertFactors],
) -> Tensor:
    """Mirror ``_grouped_linear``: autocast does not know it, so that the input takes the weight's
    dtype."""
    tape, h = decoder.tape, decoder.workload.model.hidden_size
    out = experts.inner_products * experts.intermediate_size
    if name.endswith("down_proj"):
        out = experts.width(h)
    size = experts.expert_tensors(h)[name]
    if any(each.name == name for each in decoder.workload.packed_experts(layer.kind)):
        x = ops.cast(tape, x, decoder.numerics.outside, f"{name}: input cast")
        output = routing.unpacked_product(
            tape, x, offsets, weights=size, out_features=out, name=name
        )
    else:
        weight = decoder.expert_parameter(layer, name, size)
        x = ops.cast(tape, x, weight.width, f"{name}: input cast")
        output = routing.grouped_product(tape, x, weight, offsets, out_features=out, name=name)
    if name not in factors:
        return output
    return with_adapters(tape, name, x, output, offsets, factors[name])


def _biases(
    decoder: Decoder, layer: Layer, name: str, in_order: Tensor, experts: ExpertsSpec
) -> Tensor | None:
    """Mirror ``bias[expert_ids]``: one row for each of the tokens' experts."""
    if not experts.biased:
        return None
    elements = experts.expert_tensors(decoder.workload.model.hidden_size)[f"{name}_bias"]
    bias = decoder.expert_parameter(layer, f"{name}_bias", elements)
    rows = in_order.elements * elements // experts.num_experts
    return routing.gathered_rows(decoder.tape, bias, in_order, rows, f"{name}: biases")


def _activated(decoder: Decoder, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror ``_default_apply_gate``: ``act_fn(gate) * up``; without a gate, the activation."""
    tape, activation = decoder.tape, decoder.workload.model.activation
    if experts.biased:
        return clamped_gate(tape, x)
    if not experts.gated:
        return activate(tape, activation, x, pow_width=decoder.pow_width)
    gate, up = views.split(tape, x, [x.elements // 2] * 2)
    activated = activate(tape, activation, gate, pow_width=decoder.pow_width)
    return ops.mul(tape, activated, up, "gated product")
