"""Adapters of routed experts: two grouped products beside the one with their matrices.

launcher/compat/adapted_experts.py runs them so. The factors are made when the experts begin, those
of the last tensor first, and are there until the experts are through.

    E  num_experts    r  rank
"""

from msgspec import Struct

from planner.forward.decoder import Decoder, Layer
from planner.models.expert_shape import ExpertsSpec
from planner.models.linear import Linear
from planner.tape import expert_operators as routing
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


class ExpertFactors(Struct, eq=False):
    """A and B of all experts, in the dtype that their matrices are multiplied in."""

    a: Tensor
    b: Tensor
    rank: int
    out_features: int


def expert_factors(
    decoder: Decoder, layer: Layer, experts: ExpertsSpec
) -> dict[str, ExpertFactors]:
    """Return the factors of a layer's experts, by the name of the tensor that they adapt."""
    adapted = decoder.workload.adapted_experts(layer.kind)
    return {each.name: _factors(decoder, layer, each, experts) for each in reversed(adapted)}


def _factors(decoder: Decoder, layer: Layer, matrix: Linear, experts: ExpertsSpec) -> ExpertFactors:
    """Mirror RowWise._factors: B's columns are put in the order of the experts."""
    adapter, tape, name = decoder.workload.settings.adapter, decoder.tape, matrix.name
    assert adapter is not None
    place, ranks = f"{layer.place}.{name}", experts.num_experts * adapter.rank
    quantized = decoder.workload.settings.quantization is not None
    width = decoder.numerics.outside if quantized else decoder.numerics.frozen
    a = decoder.parameter(f"{place}.lora_A", ranks * matrix.in_features, adapter=True)
    b = decoder.parameter(f"{place}.lora_B", ranks * matrix.out_features, adapter=True)
    by_expert = routing.reordered(tape, b, f"{name}: B by expert")
    a_cast = ops.cast(tape, a, width, f"{name}: A cast")
    if b.width == width:
        b_cast = ops.contiguous(tape, by_expert, f"{name}: B by expert")
    else:
        b_cast = ops.cast(tape, by_expert, width, f"{name}: B by expert")
    return ExpertFactors(
        a=a_cast,
        b=b_cast,
        rank=adapter.rank,
        out_features=matrix.out_features,
    )


def with_adapters(
    tape: Tape, name: str, x: Tensor, output: Tensor, offsets: Tensor, factors: ExpertFactors
) -> Tensor:
    """Mirror AdaptedStack's product, which adds to that with the matrices."""
    low = routing.grouped_product(
        tape, x, factors.a, offsets, out_features=factors.rank, name=f"{name}.lora_A"
    )
    low = ops.unary(tape, low, "scaled adapter output")
    high = routing.grouped_product(
        tape, low, factors.b, offsets, out_features=factors.out_features, name=f"{name}.lora_B"
    )
    return views.added_in_place(tape, output, high)
