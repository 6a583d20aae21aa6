"""A published row under its source's conventions -> the peak that the memory model predicts."""

from typing import Literal, TypeVar, get_args

from benchmarks.accuracy import litgpt
from benchmarks.accuracy.sources import SourceConventions, sources
from benchmarks.rows import Quantity, Row
from planner.allocation import allocator_peak
from planner.memory import Footprint, footprint_of
from planner.plan import AdapterSection, Method, Precision, QuantizationSection
from planner.presets import load_model, preset_names
from planner.recipe import Batch, Recipe, Workload, load_recipe
from planner.strategy import Layout

Reading = Literal["allocated", "allocated, replayed", "reserved, replayed"]
MEASURED_AS: dict[Reading, Quantity] = {
    "allocated": "allocated",
    "allocated, replayed": "allocated",
    "reserved, replayed": "reserved",
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
DOUBLE_QUANT = {"nf4": False, "nf4-double": True}


def set_aside(row: Row) -> str | None:
    """Why a row is not predicted, or nothing."""
    if row.source in litgpt.sources():
        return litgpt.set_aside(row)
    source = sources().get(row.source)
    if source is None:
        return "conventions of the source are not declared yet"
    if row.model not in source.models:
        return "model not declared"
    if source.models[row.model] not in preset_names("models"):
        return "no preset of the model"
    if row.method not in source.methods:
        return f"method {row.method}"
    if "allocated" not in row.readings:
        return f"{row.read} was read"
    if row.attention not in get_args(Attention):
        return f"attention {row.attention}"
    return None


def predicted(row: Row) -> dict[Reading, int]:
    """Bytes that the allocator's statistics would have said, by what is read and how it is had."""
    if row.source in litgpt.sources():
        return _of_timeline(litgpt.timeline(row))
    source = sources()[row.source]
    workload = _workload(row, source)
    batch = Batch(micro_batch_size=row.micro_batch_size, sequence_length=row.sequence_length)
    numerics = source.numerics(workload.method)
    checkpointing = row.checkpointing == "yes"
    replayed = allocator_peak(
        workload,
        batch,
        numerics,
        checkpointing=checkpointing,
        expandable_segments=source.expandable_segments,
        states_on_device=source.optimizer_states == "on the device",
    )
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=row.micro_batch_size,
        gradient_accumulation_steps=1,
        activation_checkpointing=checkpointing,
    )
    return {
        "allocated": _peak(footprint_of(workload, layout, batch, numerics), source),
        "allocated, replayed": replayed.peak_allocated_bytes,
        "reserved, replayed": replayed.peak_reserved_bytes,
    }


def _of_timeline(timeline: litgpt.Timeline) -> dict[Reading, int]:
    replayed = timeline.replayed()
    return {
        "allocated": timeline.peak_bytes,
        "allocated, replayed": replayed.peak_allocated_bytes,
        "reserved, replayed": replayed.peak_reserved_bytes,
    }


def _peak(footprint: Footprint, source: SourceConventions) -> int:
    """The largest phase, without states that the allocator does not hold."""
    left_out = {"optimizer_states"} if source.optimizer_states == "paged" else set()
    return max(
        sum(size for part, size in parts.items() if part not in left_out)
        for parts in footprint.phases.values()
    )


def _workload(row: Row, source: SourceConventions) -> Workload:
    method = _one_of(row.method, get_args(Method))
    recipe = load_recipe(method).model_copy(
        update={
            "adapter": _adapter(row, source) if method != "full" else None,
            "quantization": _quantization(row),
            "sequence_length": row.sequence_length,
            "loss": source.loss,
            "attention": row.attention,
        }
    )
    return Workload(
        model=load_model(source.models[row.model]).spec,
        recipe=Recipe.model_validate(recipe),
        compute=_one_of(row.precision, get_args(Precision)),
    )


def _one_of(word: str, known: tuple[Choice, ...]) -> Choice:
    """The member of a set of choices that is spelt like this."""
    return next(choice for choice in known if choice == word)


def _adapter(row: Row, source: SourceConventions) -> AdapterSection:
    assert row.lora_rank is not None
    targets = tuple(MODULES[name] for name in row.lora_targets.split(","))
    return AdapterSection(
        rank=row.lora_rank, alpha=row.lora_rank, dropout=source.dropout, target_modules=targets
    )


def _quantization(row: Row) -> QuantizationSection | None:
    if row.quantization == "none":
        return None
    return QuantizationSection(quant_type="nf4", double_quant=DOUBLE_QUANT[row.quantization])
