"""Routed experts one by one, as transformers ran them before its fifth version."""

from planner.base.units import ceil_div
from planner.forward.decoder import Decoder, Layer
from planner.forward.feed_forward import activate
from planner.forward.mixtures.experts import softmax_choice
from planner.models.expert_shape import ExpertsSpec
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


class ExpertLoop(Decoder):
    """A decoder whose experts are a module each, with three linear layers.

    read: transformers/models/mixtral/modeling_mixtral.py at 4.48.1, MixtralSparseMoeBlock.forward
    and MixtralBlockSparseTop2MLP.forward. Every expert gets as many tokens as any other.
    """

    def own_mixture(self, layer: Layer, x: Tensor, experts: ExpertsSpec) -> Tensor:
        tape, width, chosen_per_token = self.tape, x.width, experts.experts_per_token
        _logits = self._matrix(layer, "gate", x, experts.num_experts)
        _probabilities, scores, chosen = softmax_choice(self, _logits, experts, width)
        scores = ops.cast(tape, scores, width, "weights of the chosen experts, cast")
        final = tape.new(x.elements, width, "sum of the experts' outputs")
        _mask = tape.new(chosen.elements * experts.num_experts, ops.INT64, "mask of the experts")
        rows = ceil_div(self.batch.tokens * chosen_per_token, experts.num_experts)
        for number in range(experts.num_experts):
            places = tape.new(2 * rows, ops.INT64, "tokens of an expert")
            _given = self._rows(x, places, rows, "tokens of an expert")
            output = self._expert(layer, f"experts.{number}", _given, experts)
            weights = routing.gathered_rows(tape, scores, places, rows, "weights of an expert")
            _output = ops.mul(tape, output, weights, "expert's output, weighed")
            del output, weights
            final = added_by_index(tape, final, _output, places)
        return final

    def _rows(self, x: Tensor, places: Tensor, rows: int, name: str) -> Tensor:
        wide = rows * self.workload.model.hidden_size
        return routing.gathered_rows(self.tape, x, places, wide, name)

    def _expert(self, layer: Layer, name: str, x: Tensor, experts: ExpertsSpec) -> Tensor:
        inner, activation = experts.intermediate_size, self.workload.model.activation
        gate = self._matrix(layer, f"{name}.w1", x, inner)
        activated = activate(self.tape, activation, gate, pow_width=self.pow_width)
        del gate
        up = self._matrix(layer, f"{name}.w3", x, inner)
        product = ops.mul(self.tape, activated, up, "gated product")
        del activated, up
        return self._matrix(layer, f"{name}.w2", product, self.workload.model.hidden_size)

    def _matrix(self, layer: Layer, name: str, x: Tensor, out_features: int) -> Tensor:
        in_features = self._in_features(name)
        if self.workload.settings.quantization is not None:
            return ops.quantized_linear(
                self.tape, x, in_features=in_features, out_features=out_features, name=name
            )
        weight = self.parameter(f"{layer.place}.{name}", in_features * out_features, matrix=True)
        return self.product(weight, x, out_features, name)

    def _in_features(self, name: str) -> int:
        experts = self.workload.model.experts
        assert experts is not None
        is_last = name.endswith("w2")
        return experts.intermediate_size if is_last else self.workload.model.hidden_size


def added_by_index(tape: Tape, whole: Tensor, part: Tensor, places: Tensor) -> Tensor:
    """Return ``whole.index_add_(0, places, part)``: the gradient of the part is gathered."""
    needed = whole.node is not None
    elements, width = part.elements, part.width

    def backward(gradient: Tensor) -> list[Tensor | None]:
        gathered = tape.new(elements, width, "gradient of what is added, gathered")
        return [gradient.viewed() if needed else None, gathered]

    output = Tensor(whole.elements, whole.width, whole.storage, None)
    return tape.record(output, (whole, part), (places,), backward)
