"""The router of Phi-3.5-MoE, as transformers 5.23 writes it, on a tape of sizes.

A token's two experts are drawn one after the other, and their weights get a gradient of their own
(SparseMixer, arXiv:2409.12136).

    t  tokens     E  num_experts
"""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.models.expert_shape import ExpertsSpec
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.sink_attention import same_width_softmax
from planner.tape.tensors import Tensor


def sparse_router(
    decoder: Decoder, layer: Layer, x: Tensor, experts: ExpertsSpec
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mirror PhimoeTopKRouter.forward: return logits, the weights of the chosen experts, their
    indices, and the input, which has been multiplied by noise in its place."""
    tape, count = decoder.tape, experts.num_experts
    if experts.jitter:
        x = views.scaled_through_a_view(tape, x, "input of the router")
    weight = decoder.expert_parameter(layer, "router", decoder.workload.model.hidden_size * count)
    logits = decoder.product(weight, x, count, "router logits")
    variables: dict[str, Tensor] = {}
    first = _drawn(decoder, logits, logits, variables, "first")
    variables["masked_scores"] = _without(decoder, logits, variables["chosen, first"])
    second = _drawn(decoder, logits, variables["masked_scores"], variables, "second")
    weights = ops.concatenate(tape, (first, second), "weights of the chosen experts")
    chosen = tape.new(2 * decoder.batch.tokens, ops.INT64, "chosen experts")
    return logits, weights, chosen, x


def _without(decoder: Decoder, scores: Tensor, chosen: Tensor) -> Tensor:
    """Return ``torch.scatter(scores, -1, selected_experts, float("-inf"))``: places are saved."""
    tape, elements, width = decoder.tape, scores.elements, scores.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the scores of other experts")]

    output = tape.new(elements, width, "scores of other experts")
    return tape.record(output, (scores,), (chosen,), backward)


def _drawn(
    decoder: Decoder, scores: Tensor, open_scores: Tensor, variables: dict[str, Tensor], which: str
) -> Tensor:
    """Mirror one half of sparsemixer: draw one expert for each token and return its weight.
    ``variables`` are the function's, which a name that comes again replaces."""
    tape, tokens, device = decoder.tape, decoder.batch.tokens, decoder.batch.device
    _threshold(decoder, scores, variables)
    mask = variables["mask_logits_threshold"]
    gates = routing.masked_by(tape, open_scores, mask, "scores of experts near the best")
    variables[f"chosen, {which}"] = chosen = _sampled(decoder, gates)
    if decoder.pow_width is not None:
        gates = ops.cast(tape, gates, decoder.pow_width, "scores in fp32")
    variables[f"gates, {which}"] = gates = same_width_softmax(tape, gates, device=device)
    multiplier = routing.gathered_rows(tape, gates, chosen, tokens, "weights of the drawn experts")
    variables["max_scores"], variables["max_ind"] = routing.top_k(tape, gates, tokens)
    variables[f"multiplier, {which}"] = multiplier
    variables[f"mask, {which}"] = _mask_for_one(decoder, gates.width)
    return _multiplied(decoder, scores, multiplier, chosen, gates)


def _threshold(decoder: Decoder, scores: Tensor, variables: dict[str, Tensor]) -> None:
    """Make the mask of experts that are far from the best one, which no gradient passes."""
    tape, tokens, count, width = decoder.tape, decoder.batch.tokens, scores.elements, scores.width
    variables["mask_logits_threshold"] = tape.new(tokens, width, "largest scores")
    variables["max_ind"] = tape.new(tokens, ops.INT64, "places of the largest scores")
    absolute = tape.new(count, width, "absolute scores")
    variables["factor"] = tape.new(count, width, "absolute scores, clamped")
    del absolute
    distance = tape.new(count, width, "distance to the largest scores")
    share = tape.new(count, width, "distance as a share")
    del distance
    variables["mask_logits_threshold"] = tape.new(count, 1, "mask of experts far from the best")
    del share


def _sampled(decoder: Decoder, gates: Tensor) -> Tensor:
    """Return ``(masked_gates - noise.exponential_().log()).max(dim=-1)[1]``; CUDA's autocast takes
    the logarithm in fp32."""
    tape, count, width = decoder.tape, gates.elements, decoder.pow_width or gates.width
    noise = tape.new(count, gates.width, "noise")
    if width != gates.width:
        noise = tape.new(count, width, "noise in fp32")
    logarithm = tape.new(count, width, "logarithm of the noise")
    del noise
    _noisy = tape.new(count, width, "scores less the noise")
    del logarithm
    _values = tape.new(decoder.batch.tokens, width, "largest noisy scores")
    return tape.new(decoder.batch.tokens, ops.INT64, "drawn experts")


def _mask_for_one(decoder: Decoder, width: int) -> Tensor:
    """Return 1 or a third for each token, in the dtype of the gates."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    _best = tape.new(tokens, 1, "whether the best is drawn")
    random = tape.new(tokens, width, "random numbers")
    _more = tape.new(tokens, 1, "whether they are large")
    del random
    mask = tape.new(tokens, 1, "mask for one")
    del _best, _more
    in_fp32 = tape.new(tokens, FP32_BYTES, "1 or a third")
    del mask
    return ops.cast(tape, in_fp32, width, "1 or a third")


def _multiplied(
    decoder: Decoder, scores: Tensor, multiplier: Tensor, chosen: Tensor, gates: Tensor
) -> Tensor:
    """Mirror PhimoeMultiplier, whose gradient goes to the scores alone."""
    tape, tokens, width, count = decoder.tape, multiplier.elements, gates.width, gates.elements

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _weighed = tape.new(tokens, width, "gradient x weights")
        _negated = tape.new(tokens, width, "gradient x weights, negated")
        return [tape.new(count, width, "gradient of the scores"), None, None]

    output = tape.new(tokens, width, "weights of the drawn experts, scaled")
    saved = (multiplier, chosen, gates)
    return tape.record(output, (scores, multiplier, gates), saved, backward)
