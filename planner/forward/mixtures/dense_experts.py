"""Experts that are given every token, as transformers 5.23 writes them, on a tape of sizes.

Llama 4 multiplies all experts' weights with all tokens, each of which the router has scaled to zero
for the experts that it did not choose.

    t  tokens     E  num_experts     h  hidden_size     i  intermediate_size
"""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.feed_forward import activate, gated_mlp
from planner.models.expert_shape import ExpertsSpec
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tensors import Tensor


def dense_mixture(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror Llama4TextMoe.forward."""
    tape = decoder.tape
    scores, _logits = _router(decoder, layer, x, experts)
    routed = routing.repeated(tape, x, experts.num_experts, "tokens of every expert")
    by_expert = ops.contiguous(tape, scores, "scores by expert")
    routed = ops.mul(tape, routed, by_expert, "tokens of every expert, scaled")
    del by_expert
    output = _experts(decoder, layer, routed, experts)
    shared = gated_mlp(decoder, layer, x)
    total = routing.summed_experts(tape, output, experts.num_experts)
    return views.added_in_place(tape, shared, total)


def _router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor]:
    """Mirror Llama4Router.forward: return scores of all experts, and the logits."""
    tape, tokens, count = decoder.tape, decoder.batch.tokens, experts.num_experts
    weight = decoder.expert_parameter(layer, "router", decoder.workload.model.hidden_size * count)
    logits = decoder.product(weight, x, count, "router logits")
    values, chosen = routing.top_k(tape, logits, tokens * experts.experts_per_token)
    scores = routing.scattered(
        tape, values, chosen, logits.elements, "logits of the chosen experts"
    )
    width = scores.width
    in_fp32 = ops.cast(tape, scores, FP32_BYTES, "scores in fp32")
    opened = ops.unary(tape, in_fp32, "sigmoid", saves="output")
    del in_fp32, scores
    return ops.cast(tape, opened, width, "scores of the experts, cast"), logits


def _experts(decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror Llama4TextExperts.forward."""
    tape, model = decoder.tape, decoder.workload.model
    both = _product(decoder, layer, "experts.gate_up_proj", x, experts)
    gate, up = views.split(tape, both, [both.elements // 2] * 2)
    activated = activate(tape, model.activation, gate, pow_width=decoder.pow_width)
    product = ops.mul(tape, up, activated, "gated product")
    del activated
    return _product(decoder, layer, "experts.down_proj", product, experts)


def _product(decoder: Decoder, layer: Layer, name: str, x: Tensor, experts: ExpertsSpec) -> Tensor:
    """Mirror ``torch.bmm``, whose operands autocast casts; it keeps the copy of a leaf."""
    h = decoder.workload.model.hidden_size
    weight: Tensor = decoder.expert_parameter(layer, name, experts.expert_tensors(h)[name])
    if decoder.numerics.autocast:
        width = decoder.numerics.compute
        x = ops.cast(decoder.tape, x, width, f"{name}: input cast")
        if weight.width != width:
            weight = decoder.cast_weight(weight, f"{name}: weight cast")
    rows = decoder.batch.tokens * experts.num_experts
    out = h if name.endswith("down_proj") else 2 * experts.intermediate_size
    return ops.matmul(decoder.tape, x, weight, rows * out, name, rows=rows)
