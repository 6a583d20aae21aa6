"""Terms of the buffers of FSDP2, where a rank has some rows of every parameter."""

from collections.abc import Iterable, Iterator
from math import prod

from planner.base.phrases import Phrase
from planner.memory.buffers import Buffer
from planner.plan.vocabulary import Phase
from planner.report.explain.device_terms import COMMON, Terms, update_terms
from planner.report.explain.explained import Explained
from planner.report.explain.state_terms import LORA, QUANTIZATION, SHAPE, filled_blocks
from planner.report.explain.terms import Count, Expression, Term, bytes_of, total
from planner.report.explain.zero_1_2_terms import ranks_of
from planner.workload.fsdp_units import constants_bytes, packed_piece, shard_of, shard_tensors
from planner.workload.parameters import Sized, parameters

UNITS = "torch's _fsdp_param.py (planner/workload/fsdp_units.py)"
PHASES = "torch's _fsdp_param_group.py (planner/memory/fsdp_phases.py)"


def _params(plan: Explained, *, trains: bool) -> list[Sized]:
    return [each for each in parameters(plan.workload) if each.trains == trains]


def _rows(plan: Explained, elements: Expression, params: Iterable[Sized]) -> Expression:
    """Return the rank's rows of parameters, which have so many elements together."""
    ranks = plan.layout.shard_ranks
    cut = sum(prod(shard_of(each.shape, ranks)) for each in params)
    filled = Count(cut * ranks - elements.value, Phrase("to make rows equal"))
    return total(elements, filled) / ranks_of(plan)


def _shards(plan: Explained, elements: Expression, params: list[Sized], width: int) -> Expression:
    ranks = plan.layout.shard_ranks
    sizes = (prod(shard_of(each.shape, ranks)) * width for each in params)
    return filled_blocks(_rows(plan, elements, params) * bytes_of(width), sizes)


def _offloaded(plan: Explained) -> bool:
    return plan.layout.offload != "none"


def _trained(name: Phrase, source: str) -> Terms:
    """Return the terms of the rows that train, which the host has where they are offloaded."""

    def terms(plan: Explained, _phase: Phase) -> Iterator[Term]:
        if not _offloaded(plan):
            params = _params(plan, trains=True)
            amount = _shards(plan, plan.trained, params, plan.kinds.home)
            yield Term(name=name, bytes=amount, source=source)

    return terms


def _frozen_weights(plan: Explained, _phase: Phase) -> Iterator[Term]:
    """Yield the rows of what is frozen, which the host has where they are offloaded; scales of
    packed weights are whole on every rank."""
    if not _offloaded(plan):
        yield from _frozen_rows(plan)
    quantization = plan.workload.settings.quantization
    if quantization is None:
        return
    whole = sum(
        count * constants_bytes(matrix, quantization)
        for matrix, count in plan.workload.counted_packed
    )
    name = Phrase("scales and constants, whole")
    source = QUANTIZATION[quantization.quant_type]
    yield Term(name=name, bytes=bytes_of(whole), source=source)


def _frozen_rows(plan: Explained) -> Iterator[Term]:
    frozen = _params(plan, trains=False)
    elements = Count(sum(each.elements for each in frozen), Phrase("frozen parameters"))
    amount = _shards(plan, elements, frozen, plan.kinds.outside)
    yield Term(name=Phrase("frozen weights"), bytes=amount, source=SHAPE)
    quantization = plan.workload.settings.quantization
    if quantization is None:
        return
    ranks = plan.layout.shard_ranks
    pieces = [
        packed_piece(matrix, quantization, ranks, plan.kinds)
        for matrix, count in plan.workload.counted_packed
        for _ in range(count)
    ]
    cut = sum(piece.elements for piece in pieces) * ranks
    codes = Count(sum(piece.whole for piece in pieces), Phrase("numbers that hold codes"))
    filled = Count(cut - codes.value, Phrase("to make rows equal"))
    rows = total(codes, filled) / ranks_of(plan) * bytes_of(plan.kinds.frozen)
    sizes = (piece.elements * piece.width for piece in pieces)
    yield Term(name=Phrase("packed weights"), bytes=filled_blocks(rows, sizes), source=UNITS)


def _gradients(plan: Explained, phase: Phase) -> Iterator[Term]:
    name = Phrase("gradients of the rank's rows in {precision}", precision=plan.updated_in)
    yield _replayed(plan, phase, "gradients", name)


def _replayed(plan: Explained, phase: Phase, buffer: Buffer, name: str) -> Term:
    amount = bytes_of(plan.moments[phase].buffers[buffer])
    return Term(name=Phrase("{name}, replayed", name=name), bytes=amount, source=PHASES)


def _of_the_replay(buffer: Buffer, name: str) -> Terms:
    def terms(plan: Explained, phase: Phase) -> Iterator[Term]:
        yield _replayed(plan, phase, buffer, name)

    return terms


def _update(plan: Explained, _phase: Phase) -> Iterator[Term]:
    yield from update_terms(plan, shard_tensors(plan.workload, plan.layout.shard_ranks))


FSDP_TERMS: dict[Buffer, Terms] = {
    **COMMON,
    "frozen_weights": _frozen_weights,
    "trained_weights": _trained(Phrase("trained weights"), SHAPE),
    "adapters": _trained(Phrase("adapters"), LORA),
    "gradients": _gradients,
    "new_gradients": _of_the_replay("new_gradients", Phrase("gradients of the unit that runs")),
    "persistent": _of_the_replay("persistent", Phrase("units that stay whole")),
    "gathered": _of_the_replay("gathered", Phrase("units that run, and buffers they arrive in")),
    "reduce_buckets": _of_the_replay("reduce_buckets", Phrase("gradients that are reduced")),
    "loaded_parameter": _of_the_replay("loaded_parameter", Phrase("a unit that is not cut yet")),
    "saved_parameter": _of_the_replay(
        "saved_parameter", Phrase("a parameter gathered to be written")
    ),
    "update": _update,
}
"""The buffers of FSDP2."""
