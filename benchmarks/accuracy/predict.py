"""Predicted peaks of a published row under the conventions of its source."""

from dataclasses import dataclass
from typing import Literal, get_args

from benchmarks.accuracy import litgpt
from benchmarks.accuracy.expert_loop import ExpertLoop
from benchmarks.accuracy.express import (
    GPTQ,
    packing_is_known,
    parallel_of,
    precision_of,
    timeline,
    training_of,
)
from benchmarks.accuracy.sources import (
    Parallel,
    SourceConventions,
    sources,
    whole_sources_set_aside,
)
from benchmarks.rows import Quantity, Row
from planner.base.units import GIB, MIB
from planner.forward.decoder import Decoder
from planner.hardware.cards import load_gpu, named_cluster
from planner.hardware.cluster import GpuSpec
from planner.memory.device_memory import device_memory, overheads
from planner.memory.footprint import Footprint, footprint_of
from planner.plan.vocabulary import Precision
from planner.workload.layout import Layout

Reading = Literal[
    "allocated",
    "allocated, replayed",
    "reserved, replayed",
    "device, replayed",
    "after the last step, replayed",
]
MEASURED_AS: dict[Reading, Quantity] = {
    "allocated": "allocated",
    "allocated, replayed": "allocated",
    "reserved, replayed": "reserved",
    "device, replayed": "device_used",
    "after the last step, replayed": "at_rest",
}
"""Reading that each prediction is compared with. Replayed: every block of two steps through the
allocator's rules, so that blocks which it does not split are counted whole."""
EXPRESSIBLE = (Decoder, ExpertLoop)
"""Decoders of runs that a plan can express: it has its experts run together, which keeps as
much."""
Attention = Literal["sdpa", "eager"]
UNITS = {"GiB": GIB, "MiB": MIB, "1000 MiB": 1000 * MIB}


def set_aside(row: Row) -> str | None:
    """Return why a row is not predicted, or None."""
    if row.source in litgpt.sources():
        return litgpt.set_aside(row)
    return _not_declared(row)


def by_its_id(row: Row) -> bool:
    """Return whether the row is set aside by its id alone, so that it could be predicted."""
    if row.source in litgpt.sources():
        return row.id in litgpt.sources()[row.source].aside
    source = sources().get(row.source)
    if source is None or row.id not in source.set_aside:
        return False
    return _undeclared(row, source) is None


def _not_declared(row: Row) -> str | None:
    """Return which of the source's conventions or of the row's settings is not declared."""
    source = sources().get(row.source)
    if source is None:
        undeclared = "conventions of the source are not declared yet"
        return whole_sources_set_aside().get(row.source, undeclared)
    return source.set_aside.get(row.id) or _undeclared(row, source)


def _undeclared(row: Row, source: SourceConventions) -> str | None:
    """Return what of the row's model and settings cannot be expressed here."""
    if row.model not in source.models:
        return "model not declared"
    if source.shape(row.model) is None:
        return "no preset of the model"
    return _unknown_word(row, source)


def _unknown_word(row: Row, source: SourceConventions) -> str | None:
    """Return the first setting that cannot be expressed here."""
    attention = source.attention.get(row.attention, row.attention)
    settings = (
        (f"method {row.method}", row.method in source.methods or row.quantization in GPTQ),
        (f"quantization {row.quantization}", packing_is_known(row, source)),
        (f"{row.read} was read", bool(measured(row))),
        (f"attention {row.attention}", attention in get_args(Attention)),
        (f"parallel {row.parallel}", parallel_of(row, source) in get_args(Parallel)),
        (f"precision {row.precision}", precision_of(row, source) in get_args(Precision)),
        (f"optimizer {row.optimizer}", row.optimizer in source.optimizers),
        (f"offload {row.offload}", row.offload in source.offloads),
        (f"loss {row.loss}", row.loss in source.losses),
    )
    return next((word for word, known in settings if not known), None)


def measured(row: Row) -> dict[Quantity, int]:
    """Return the measured bytes by reading, with the source's words and units translated into
    ours."""
    source = sources().get(row.source)
    kind = None if source is None else source.read.get(row.read)
    if source is None or kind is None:
        return dict(row.readings)
    unit = source.unit.get(row.unit)
    own = row.peak_bytes if unit is None else round(row.printed * UNITS[unit])
    return {**row.readings, kind: own}


def predicted(row: Row) -> dict[Reading, int]:
    """Return the bytes that the allocator's statistics would show, by reading and by way of
    prediction."""
    if row.source in litgpt.sources():
        return _litgpt(row)
    source = sources()[row.source]
    replayed = on_card(row)
    found: dict[Reading, int] = {
        "allocated, replayed": replayed.allocated_bytes,
        "reserved, replayed": replayed.reserved_bytes,
        "after the last step, replayed": replayed.last_bytes,
    }
    if card_of(row, source) is not None:
        found["device, replayed"] = replayed.device_used_bytes
    closed = closed_form(row)
    return found if closed is None else {"allocated": closed, **found}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnCard:
    """A run on its card, if that is known: cached blocks are returned when the card fills up."""

    allocated_bytes: int
    reserved_bytes: int
    device_used_bytes: int
    last_bytes: int
    """Allocated bytes after the last step."""
    runs_out: bool


def on_card(row: Row) -> OnCard:
    source = sources()[row.source]
    card = card_of(row, source)
    outside = _outside(row, card) if card is not None else 0
    capacity = None
    if card is not None and card.torch_visible_mib is not None:
        capacity = card.torch_visible_mib * MIB - outside
    peaks = timeline(row).peaks(
        expandable_segments=source.expandable_segments, capacity_bytes=capacity
    )
    return OnCard(
        allocated_bytes=peaks.allocated_bytes,
        reserved_bytes=peaks.reserved_bytes,
        device_used_bytes=peaks.reserved_bytes + outside,
        last_bytes=peaks.last_bytes,
        runs_out=peaks.runs_out,
    )


def card_of(row: Row, source: SourceConventions) -> GpuSpec | None:
    """Return the card of a row; None if it is not declared, or if its context is not known."""
    name = next((card for word, card in source.cards.items() if row.gpu.startswith(word)), None)
    card = None if name is None else load_gpu(name)
    return None if card is None or card.context_mib is None else card


def _outside(row: Row, card: GpuSpec) -> int:
    """Return the bytes that the process takes beside the allocator: the context, and NCCL for
    several ranks."""
    assert card.context_mib is not None
    return (card.context_mib + (overheads().nccl_mib.low if row.ranks > 1 else 0)) * MIB


def closed_form(row: Row) -> int | None:
    """Return the peak that ``plan`` would show, if it was measured and a plan can express the
    run."""
    found = _footprint(row) if "allocated" in measured(row) else None
    return None if found is None else found.peak_allocated_bytes


def plan_fits(row: Row) -> bool | None:
    """Return whether ``plan`` would let the run onto its card, which it does if the high end of the
    range is within the capacity; None if the card is not known, or if a plan cannot express the
    run."""
    source, found = sources()[row.source], _footprint(row)
    card = card_of(row, source)
    if found is None or card is None:
        return None
    cluster = named_cluster(card, 1)
    method = training_of(row, source).workload.method
    high = device_memory(found, cluster, method).high_bytes
    return high <= cluster.accelerator.capacity_bytes


def _footprint(row: Row) -> Footprint | None:
    """Return the closed form of a run of one process; None if a plan cannot express it."""
    source = sources()[row.source]
    if row.parallel != "single" or source.steps_in_backward or row.quantization in GPTQ:
        return None
    training = training_of(row, source)
    if training.decoder not in EXPRESSIBLE:
        return None
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=row.micro_batch_size,
        gradient_accumulation_steps=1,
        activation_checkpointing=training.checkpointing,
    )
    return footprint_of(training.workload, layout, training.batch, training.numerics)


def _litgpt(row: Row) -> dict[Reading, int]:
    """Return predictions of a row of LitGPT, which has its own model code."""
    line = litgpt.timeline(row)
    peaks = line.peaks(expandable_segments=False)
    return {
        "allocated": litgpt.requested_bytes(line),
        "allocated, replayed": peaks.allocated_bytes,
        "reserved, replayed": peaks.reserved_bytes,
    }
