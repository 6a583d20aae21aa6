"""A published row under its source's conventions -> the peak that the memory model predicts."""

from typing import Literal, TypeVar, get_args

from benchmarks.accuracy.sources import SourceConventions, sources
from benchmarks.rows import Row
from planner.memory import Footprint, footprint_of
from planner.plan import AdapterSection, Method, Precision, QuantizationSection
from planner.presets import load_model, preset_names
from planner.recipe import Batch, Recipe, Workload, load_recipe
from planner.strategy import Layout

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


def predicted(row: Row) -> int:
    """Bytes that ``torch.cuda.max_memory_allocated`` would have reported."""
    source = sources()[row.source]
    result = footprint(row, source)
    totals = {phase: result.total_bytes(phase) for phase in result.phases}
    if source.optimizer_states == "paged":
        for phase, parts in result.phases.items():
            totals[phase] -= parts.get("optimizer_states", 0)
    return max(totals.values())


def footprint(row: Row, source: SourceConventions) -> Footprint:
    workload = _workload(row, source)
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=row.micro_batch_size,
        gradient_accumulation_steps=1,
        activation_checkpointing=row.checkpointing == "yes",
    )
    batch = Batch(micro_batch_size=row.micro_batch_size, sequence_length=row.sequence_length)
    return footprint_of(workload, layout, batch, source.numerics(workload.method))


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
