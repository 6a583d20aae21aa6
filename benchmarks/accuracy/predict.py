"""A published row under its source's conventions -> the peak that the memory model predicts."""

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from benchmarks.accuracy import litgpt
from benchmarks.accuracy.decoders import Gptq4, Gptq8, TrainedOutside, gptq_sizes
from benchmarks.accuracy.fsdp import fully_sharded
from benchmarks.accuracy.loop import Training, one_device
from benchmarks.accuracy.sources import (
    Parallel,
    SourceConventions,
    sources,
    whole_sources_set_aside,
)
from benchmarks.accuracy.timeline import Timeline
from benchmarks.accuracy.zero2 import partitioned_gradients
from benchmarks.rows import Quantity, Row
from planner.decoder import Decoder
from planner.gpu import GpuSpec
from planner.memory import Footprint, footprint_of
from planner.overheads import overheads
from planner.plan import AdapterSection, Method, Precision, QuantizationSection
from planner.presets import load_gpu
from planner.recipe import Batch, Recipe, Workload, load_recipe
from planner.strategy import Layout
from planner.units import GIB, MIB

Reading = Literal["allocated", "allocated, replayed", "reserved, replayed", "device, replayed"]
MEASURED_AS: dict[Reading, Quantity] = {
    "allocated": "allocated",
    "allocated, replayed": "allocated",
    "reserved, replayed": "reserved",
    "device, replayed": "device_used",
}
"""Replayed: every block of two steps through the allocator's rules, so that what it leaves
unsplit is counted too."""
Attention = Literal["sdpa", "eager"]
Choice = TypeVar("Choice")

MODULES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
GPTQ: dict[str, type[Decoder]] = {"gptq-int4": Gptq4, "gptq-int8": Gptq8}
ORIGINAL_BYTES = 2
"""Per element of a weight beside its trained copy."""
DOUBLE_QUANT = {"nf4": False, "nf4-double": True}
UNITS = {"GiB": GIB, "MiB": MIB, "1000 MiB": 1000 * MIB}


def set_aside(row: Row) -> str | None:
    """Why a row is not predicted, or nothing."""
    if row.source in litgpt.sources():
        return litgpt.set_aside(row)
    return _not_declared(row)


def _not_declared(row: Row) -> str | None:
    """What of the source's conventions, or of this row's settings, is not declared."""
    source = sources().get(row.source)
    if source is None:
        undeclared = "conventions of the source are not declared yet"
        return whole_sources_set_aside().get(row.source, undeclared)
    if row.id in source.set_aside:
        return source.set_aside[row.id]
    if row.model not in source.models:
        return "model not declared"
    if source.shape(row.model) is None:
        return "no preset of the model"
    return _unknown_word(row, source)


def _unknown_word(row: Row, source: SourceConventions) -> str | None:
    """The first setting that nothing here stands for."""
    attention = source.attention.get(row.attention, row.attention)
    settings = (
        (f"method {row.method}", row.method in source.methods or row.quantization in GPTQ),
        (f"quantization {row.quantization}", _packed(row, source)),
        (f"{row.read} was read", bool(measured(row))),
        (f"attention {row.attention}", attention in get_args(Attention)),
        (f"parallel {row.parallel}", _parallel(row, source) in ("single", "ddp", "fsdp")),
    )
    return next((word for word, known in settings if not known), None)


def measured(row: Row) -> dict[Quantity, int]:
    """Bytes by what was read, the source's own words and units put into ours."""
    source = sources().get(row.source)
    kind = None if source is None else source.read.get(row.read)
    if source is None or kind is None:
        return dict(row.readings)
    unit = source.unit.get(row.unit)
    own = row.peak_bytes if unit is None else round(row.printed * UNITS[unit])
    return {**row.readings, kind: own}


def predicted(row: Row) -> dict[Reading, int]:
    """Bytes that the allocator's statistics would have said, by what is read and how it is had."""
    if row.source in litgpt.sources():
        return _litgpt(row)
    source = sources()[row.source]
    replayed = on_card(row)
    found: dict[Reading, int] = {
        "allocated, replayed": replayed.allocated_bytes,
        "reserved, replayed": replayed.reserved_bytes,
    }
    if _card(row, source) is not None:
        found["device, replayed"] = replayed.device_used_bytes
    known = row.parallel == "single" and not source.steps_in_backward
    if known and "allocated" in measured(row):
        found = {"allocated": _closed_form(row, source), **found}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OnCard:
    """A run on its own card, where that is known: cached blocks go back when it fills up."""

    allocated_bytes: int
    reserved_bytes: int
    device_used_bytes: int
    runs_out: bool


def on_card(row: Row) -> OnCard:
    source = sources()[row.source]
    card = _card(row, source)
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
        runs_out=peaks.runs_out,
    )


def _card(row: Row, source: SourceConventions) -> GpuSpec | None:
    name = next((card for word, card in source.cards.items() if row.gpu.startswith(word)), None)
    return None if name is None else load_gpu(name)


def _outside(row: Row, card: GpuSpec) -> int:
    """What the process takes beside the allocator: the context, and what two ranks' NCCL does."""
    assert card.context_mib is not None
    return (card.context_mib + (overheads().nccl_mib.low if row.ranks > 1 else 0)) * MIB


def timeline(row: Row) -> Timeline:
    """The row's training loop, allocation by allocation."""
    if row.source in litgpt.sources():
        return litgpt.timeline(row)
    source = sources()[row.source]
    training = _training(row, source)
    if row.quantization in GPTQ and source.reduce_bucket_size is not None:
        return partitioned_gradients(
            training, ranks=row.ranks, bucket_elements=source.reduce_bucket_size
        )
    if _parallel(row, source) != "fsdp":
        return one_device(training)
    assert source.sharding is not None
    on_host = row.offload not in ("none", "")
    sharding = source.sharding.model_copy(update={"on_host": on_host})
    return fully_sharded(training, sharding, row.ranks)


def _closed_form(row: Row, source: SourceConventions) -> int:
    training = _training(row, source)
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=row.micro_batch_size,
        gradient_accumulation_steps=1,
        activation_checkpointing=training.checkpointing,
    )
    return _peak(footprint_of(training.workload, layout, training.batch, training.numerics), source)


def _litgpt(row: Row) -> dict[Reading, int]:
    """Rows of a trainer with its own model code."""
    line = timeline(row)
    peaks = line.peaks(expandable_segments=False)
    return {
        "allocated": litgpt.requested_bytes(line),
        "allocated, replayed": peaks.allocated_bytes,
        "reserved, replayed": peaks.reserved_bytes,
    }


def _peak(footprint: Footprint, source: SourceConventions) -> int:
    """The largest phase, without states that the allocator does not hold."""
    left_out = {"optimizer_states"} if source.optimizer_states == "paged" else set()
    return max(
        sum(size for part, size in parts.items() if part not in left_out)
        for parts in footprint.phases.values()
    )


def _parallel(row: Row, source: SourceConventions) -> Parallel | str:
    return source.parallel.get(row.parallel, row.parallel)


def _training(row: Row, source: SourceConventions) -> Training:
    workload, decoder = _workload(row, source), _decoder(row, source)
    return Training(
        workload=workload,
        batch=Batch(
            micro_batch_size=row.micro_batch_size,
            sequence_length=row.sequence_length,
        ),
        numerics=source.numerics(workload.method, row.model, gptq=row.quantization in GPTQ),
        checkpointing=row.checkpointing == "yes",
        micro_batches=row.gradient_accumulation_steps,
        buckets=_parallel(row, source) == "ddp",
        decoder=decoder,
        held_beside=tuple(_held_beside(workload, decoder)),
        states_on_device=source.optimizer_states == "on the device",
        adam_step=source.adam_step,
        holds_output=source.holds_output,
        steps_in_backward=source.steps_in_backward,
    )


def _decoder(row: Row, source: SourceConventions) -> type[Decoder]:
    if row.lora_targets in source.modules_to_save:
        return TrainedOutside
    return GPTQ.get(row.quantization, Decoder)


def _held_beside(workload: Workload, decoder: type[Decoder]) -> list[int]:
    model = workload.model
    if decoder is TrainedOutside:
        return [model.embedding_params * ORIGINAL_BYTES] * 2
    if decoder is Decoder:
        return []
    matrices = [matrix for kind in model.layers for matrix in model.linears(kind)]
    return [size for matrix in matrices for size in gptq_sizes(decoder, matrix)]


def _workload(row: Row, source: SourceConventions) -> Workload:
    method = _one_of(row.method, get_args(Method))
    recipe = load_recipe(method).model_copy(
        update={
            "adapter": _adapter(row, source) if method != "full" else None,
            "quantization": _quantization(_packing(row, source)),
            "sequence_length": row.sequence_length,
            "loss": source.loss,
            "attention": source.attention.get(row.attention, row.attention),
        }
    )
    shape = source.shape(row.model)
    assert shape is not None
    return Workload(
        model=shape,
        recipe=Recipe.model_validate(recipe),
        compute=_one_of(source.precision.get(row.precision, row.precision), get_args(Precision)),
    )


def _one_of(word: str, known: tuple[Choice, ...]) -> Choice:
    """The member of a set of choices that is spelt like this."""
    return next(choice for choice in known if choice == word)


def _adapter(row: Row, source: SourceConventions) -> AdapterSection:
    assert row.lora_rank is not None
    names = source.targets.get(row.lora_targets, row.lora_targets).split(",")
    targets = tuple(MODULES.get(name, name) for name in names)
    return AdapterSection(
        rank=row.lora_rank, alpha=row.lora_rank, dropout=source.dropout, target_modules=targets
    )


def _packing(row: Row, source: SourceConventions) -> str:
    return source.quantization.get(row.quantization, row.quantization)


def _packed(row: Row, source: SourceConventions) -> bool:
    """Whether it is known how."""
    if row.quantization in GPTQ:
        return source.gptq is not None
    return _packing(row, source) in ("none", *DOUBLE_QUANT)


def _quantization(packing: str) -> QuantizationSection | None:
    if packing not in DOUBLE_QUANT:
        return None
    return QuantizationSection(quant_type="nf4", double_quant=DOUBLE_QUANT[packing])
