"""Routed experts, as transformers 5.23 writes them, on a tape of sizes.

``experts_implementation`` is ``grouped_mm``, transformers' default on every device: tokens
are sorted by expert and each matrix of all experts is one operator, so every size is known
whatever the router does: tokens x experts_per_token rows. With the loop of ``eager`` sizes
depend on the data; ``batched_mm`` copies an expert's weights for each row.

``output_router_logits`` is false, transformers' default, so that there is no load-balancing
loss and router logits are not kept.

t  tokens     k  experts_per_token     S = t k  rows     E  num_experts     h  hidden_size
"""

from planner import operators as ops
from planner import routing
from planner.attention import softmax
from planner.decoder import Decoder, Layer
from planner.expert_shape import ExpertsSpec
from planner.feed_forward import activate, gated_mlp
from planner.tensors import Tensor


def mixture(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """MixtralSparseMoeBlock.forward and Qwen3MoeSparseMoeBlock.forward; with shared experts
    those of Qwen2-MoE, and where no gate weighs them those of DeepSeek-V2 and V3."""
    if experts.shared_gate:
        return _gated_mixture(decoder, layer, x, experts)
    _logits, scores, chosen = router(decoder, layer, x, experts)
    routed = grouped_experts(decoder, layer, x, scores, chosen, experts)
    if not experts.shared_intermediate_size:
        return routed
    shared = gated_mlp(decoder, layer, x)
    return ops.add(decoder.tape, routed, shared, "routed and shared experts")


def _gated_mixture(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Qwen2MoeSparseMoeBlock.forward."""
    tape = decoder.tape
    shared = gated_mlp(decoder, layer, x)
    _logits, scores, chosen = router(decoder, layer, x, experts)
    routed = grouped_experts(decoder, layer, x, scores, chosen, experts)
    gate = ops.unary(
        tape, decoder.linear(layer, "shared_expert_gate", x), "sigmoid", saves="output"
    )
    shared = ops.mul(tape, gate, shared, "shared expert, weighed")
    del gate
    return ops.add(tape, routed, shared, "routed and shared experts")


def router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """MixtralTopKRouter.forward and Qwen3MoeTopKRouter.forward: logits, the weights of the
    chosen experts, and which they are."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    h, count = decoder.workload.model.hidden_size, experts.num_experts
    weight = decoder.expert_parameter(layer, "router", h * count)
    logits = decoder.product(weight, x, count, "router logits")
    probabilities = softmax(tape, logits, device=decoder.batch.device)
    scores, chosen = routing.top_k(tape, probabilities, tokens * experts.experts_per_token)
    if experts.normalized:
        scores = routing.normalized(tape, scores, tokens)
    if experts.router == "softmax":
        scores = ops.cast(tape, scores, logits.width, "weights of the chosen experts, cast")
    return logits, scores, chosen


def grouped_experts(
    decoder: Decoder,
    layer: Layer,
    x: Tensor,
    scores: Tensor,
    chosen: Tensor,
    experts: ExpertsSpec,
) -> Tensor:
    """grouped_mm_experts_forward of transformers/integrations/moe.py."""
    tape, h = decoder.tape, decoder.workload.model.hidden_size
    rows, width = chosen.elements, x.width
    _experts, order = routing.order_of(tape, rows)
    selected = _selected(decoder, x, rows, h)
    weights = routing.gathered(tape, scores, order, rows, "weights in the experts' order")
    _counted = tape.new(rows, routing.INT32, "experts in order, to count")
    _per_expert = tape.new(experts.num_experts, routing.INT32, "rows of each expert")
    offsets = tape.new(experts.num_experts, routing.INT32, "offsets of the experts' rows")
    output = _product(decoder, layer, "experts.gate_up_proj", selected, offsets, experts)
    output = _gated(decoder, output)
    output = _product(decoder, layer, "experts.down_proj", output, offsets, experts)
    weighed = ops.mul(tape, output, weights, "experts' outputs, weighed")
    back = tape.new(rows, ops.INT64, "places of the tokens")
    weighed = routing.gathered(tape, weighed, back, rows * h, "experts' outputs by token")
    final = routing.summed_experts(tape, weighed, experts.experts_per_token)
    return ops.cast(tape, final, width, "sum over a token's experts, cast")


def _selected(decoder: Decoder, x: Tensor, rows: int, h: int) -> Tensor:
    """``hidden_states[perm // num_top_k]``."""
    tokens = decoder.tape.new(rows, ops.INT64, "tokens in the experts' order")
    return routing.gathered(decoder.tape, x, tokens, rows * h, "tokens in the experts' order")


def _product(
    decoder: Decoder, layer: Layer, name: str, x: Tensor, offsets: Tensor, experts: ExpertsSpec
) -> Tensor:
    """``_grouped_linear``: autocast knows nothing of it, the input takes the weight's dtype."""
    h = decoder.workload.model.hidden_size
    weight = decoder.expert_parameter(layer, name, experts.expert_tensors(h)[name])
    x = ops.cast(decoder.tape, x, weight.width, f"{name}: input cast")
    out = h if name.endswith("down_proj") else 2 * experts.intermediate_size
    return routing.grouped_product(decoder.tape, x, weight, offsets, out_features=out, name=name)


def _gated(decoder: Decoder, both: Tensor) -> Tensor:
    """``_default_apply_gate``: ``act_fn(gate) * up``."""
    tape = decoder.tape
    gate, up = routing.halves(tape, both)
    activation = decoder.workload.model.activation
    activated = activate(tape, activation, gate, pow_width=decoder.pow_width)
    return ops.mul(tape, activated, up, "gated product")
