"""Terms of DeepSpeed's buffers, where a rank has flat parts of what trains (ZeRO-1, ZeRO-2)."""

from collections.abc import Iterator
from typing import Literal

from planner.base.phrases import Phrase
from planner.memory.buffers import IN_HEAD, Arrival, Buffer, Late
from planner.memory.zero_1_2 import NORM_BYTES, Partition, flat_update
from planner.memory.zero_phases import earlier_gradients, gradient_levels, in_head_level
from planner.memory.zero_reductions import reductions
from planner.plan.vocabulary import Phase
from planner.report.explain.device_terms import COMMON, Terms
from planner.report.explain.explained import Explained
from planner.report.explain.state_terms import LORA, SHAPE, blocks, filled_blocks
from planner.report.explain.terms import Count, Expression, Term, bytes_of, largest, total

STAGE_1_AND_2 = "DeepSpeed 0.19.8, stage_1_and_2.py (planner/memory/zero_1_2.py)"
REPLAYED = "DeepSpeed 0.19.8, stage_1_and_2.py (planner/memory/zero_reductions.py)"


def ranks_of(plan: Explained) -> Count:
    """Return among how many ranks DeepSpeed divides, or FSDP each copy of the parameters."""
    number = plan.layout.shard_ranks
    return Count(
        number, Phrase("data-parallel rank") if number == 1 else Phrase("data-parallel ranks")
    )


def flattened(size: int, plan: Explained, words: str) -> Expression:
    """Return the gradients of a part or sub-group in the master copy's dtype, beside their 16-bit
    copy or what the update makes, whichever is larger."""
    width, home = plan.kinds.gradient, plan.kinds.home
    copied = blocks(Count(size, words), width) if width < home else bytes_of(0)
    update = flat_update(plan.workload.settings.optimizer, size, home, plan.device).num_bytes
    made = Count(update, Phrase("bytes of the optimizer's update"))
    return total(blocks(Count(size, words), home), largest(copied, made))


def _padded(plan: Explained) -> Expression:
    """Return what trains, padded until the ranks' parts are equal."""
    flat = sum(part.flat for part in plan.flat.partitions)
    return total(plan.trained, Count(flat - plan.trained.value, Phrase("to make parts equal")))


def _weights(plan: Explained) -> Expression:
    width = plan.kinds.trainable
    sizes = (part.flat * width for part in plan.flat.partitions)
    return filled_blocks(_padded(plan) * bytes_of(width), sizes)


def _trained_weights(plan: Explained, _phase: Phase) -> Iterator[Term]:
    yield Term(name=Phrase("trained weights"), bytes=_weights(plan), source=SHAPE)


def _adapters(plan: Explained, _phase: Phase) -> Iterator[Term]:
    yield Term(name=Phrase("adapters"), bytes=_weights(plan), source=LORA)


def _copied(plan: Explained) -> Expression:
    width = plan.kinds.home
    sizes = (part.part * width for part in plan.flat.partitions)
    return filled_blocks(_padded(plan) / ranks_of(plan) * bytes_of(width), sizes)


def _master_copies(plan: Explained, _phase: Phase) -> Iterator[Term]:
    name = Phrase("the rank's part in {precision}", precision=plan.updated_in)
    yield Term(name=name, bytes=_copied(plan), source=STAGE_1_AND_2)


def _setup_gradients(plan: Explained, _phase: Phase) -> Iterator[Term]:
    name = Phrase("gradients of zeros to set the optimizer up")
    yield Term(name=name, bytes=_copied(plan), source=STAGE_1_AND_2)


def _gradients(plan: Explained, phase: Phase) -> Iterator[Term]:
    """Yield the rank's buffer; ZeRO-1 has earlier micro-batches' gradients whole before that."""
    place, width = plan.moments[phase].place, plan.kinds.gradient
    if isinstance(place, Arrival | Late | int) or place == "before_layers":
        gradients, _ = _replayed(plan, place)
        yield Term(name=Phrase("gradients, replayed"), bytes=bytes_of(gradients), source=REPLAYED)
    elif phase != "optimizer_step" and plan.layout.zero_stage == 1:
        amount = plan.trained * bytes_of(width)
        yield Term(
            name=Phrase("earlier micro-batches' gradients"), bytes=amount, source=STAGE_1_AND_2
        )
    else:
        by_rank = [*zip(*(part.touched for part in plan.flat.partitions), strict=True)]
        steps = (
            by_rank[plan.flat.stepping_rank] if phase == "optimizer_step" else max(by_rank, key=sum)
        )
        touched = Count(sum(steps), Phrase("gradients of what a rank's part touches"))
        yield Term(name=Phrase("gradients"), bytes=blocks(touched, width), source=STAGE_1_AND_2)


def _reduce_buckets(plan: Explained, _phase: Phase) -> Iterator[Term]:
    one = blocks(Count(plan.zero.reduce_bucket_size, Phrase("gradients")), plan.kinds.gradient)
    amount = Count(2, Phrase("buckets")) * one
    yield Term(name=Phrase("to be reduced"), bytes=amount, source=STAGE_1_AND_2)


def _reduced_copy(plan: Explained, phase: Phase) -> Iterator[Term]:
    place = plan.moments[phase].place
    if not isinstance(place, Arrival) and place != "before_layers":
        return
    _, copy = _replayed(plan, place)
    name = Phrase("the largest copy while gradients are reduced, replayed")
    yield Term(name=name, bytes=bytes_of(copy), source=REPLAYED)


def _replayed(
    plan: Explained, place: Arrival | Late | int | Literal["before_layers"]
) -> tuple[int, int]:
    """Return bytes of gradients and of their largest copy in one stretch of backward, on the rank
    where the two are most; there is no copy but where gradients arrive."""
    layout, states = plan.layout, plan.flat
    earlier = earlier_gradients(plan.workload, layout, states)
    ranks = reductions(
        plan.workload,
        layout.world_size,
        plan.zero,
        plan.kinds,
        stage=layout.zero_stage,
        accumulates=layout.gradient_accumulation_steps > 1,
        offloaded=states.offloaded,
        shares_sequences=layout.sequence_ranks > 1,
    )
    number = IN_HEAD if place == "before_layers" else place
    if isinstance(number, Arrival | Late):
        number = number.stretch
    choices = []
    for rank in ranks:
        level, copy = list(gradient_levels(earlier, rank))[number + 1], rank.copies[number + 1]
        if number == IN_HEAD:
            choices.append(in_head_level(level, copy))
        else:
            at_copy = isinstance(place, Arrival)
            choices.append((level.at_copy, copy) if at_copy else (level.at_top, 0))
    return max(choices, key=sum)


def _offload_buffer(plan: Explained, _phase: Phase) -> Iterator[Term]:
    elements = Count(max(part.largest for part in plan.flat.partitions), Phrase("elements"))
    amount = blocks(elements, plan.kinds.gradient)
    yield Term(name=Phrase("a buffer for the largest gradient"), bytes=amount, source=STAGE_1_AND_2)


def _update(plan: Explained, _phase: Phase) -> Iterator[Term]:
    choices = [_step(part, plan) for part in plan.flat.partitions]
    amount = max(choices, key=lambda choice: choice.value)
    yield Term(name=Phrase("while the optimizer steps"), bytes=amount, source=STAGE_1_AND_2)


def _step(part: Partition, plan: Explained) -> Expression:
    norm = blocks(
        Count(
            part.pieces[plan.flat.stepping_rank], Phrase("elements of one gradient for its norm")
        ),
        NORM_BYTES,
    )
    return largest(norm, flattened(part.part, plan, Phrase("gradients of one part")))


FLAT_TERMS: dict[Buffer, Terms] = {
    **COMMON,
    "trained_weights": _trained_weights,
    "adapters": _adapters,
    "master_copies": _master_copies,
    "gradients": _gradients,
    "setup_gradients": _setup_gradients,
    "reduce_buckets": _reduce_buckets,
    "reduced_copy": _reduced_copy,
    "offload_buffer": _offload_buffer,
    "update": _update,
}
"""The buffers of ZeRO-1 and ZeRO-2."""
