"""What a plan changes of the recipe that it follows, and why. Pure."""

from collections.abc import Iterator

from planner.recipes.recipe import Recipe, WrittenFor
from planner.search.candidate import Candidate


def changes(recipe: Recipe, chosen: Candidate) -> Iterator[str]:
    """A sentence each, for the report; ``recipe`` as its author wrote it."""
    planned = chosen.workload.settings
    if recipe.method != planned.method:
        yield "its base is " + ("quantized" if planned.quantization else "not quantized")
    if recipe.sequence_length != planned.sequence_length:
        yield f"{planned.sequence_length:,} tokens a sample in the place of " + (
            f"{recipe.sequence_length:,}"
        )
    if recipe.global_batch_size != planned.global_batch_size:
        yield (
            f"{planned.global_batch_size} samples a step in the place of "
            f"{recipe.global_batch_size}, so that every GPU has as many"
        )
    if recipe.written_for is not None:
        yield from _machine_changes(recipe, recipe.written_for, chosen)


def _machine_changes(recipe: Recipe, before: WrittenFor, chosen: Candidate) -> Iterator[str]:
    layout, ranks = chosen.layout, chosen.layout.world_size
    accumulated = recipe.global_batch_size // (before.micro_batch_size * before.devices)
    was = _batch(before.micro_batch_size, accumulated, before.devices)
    now = _batch(layout.micro_batch_size, layout.gradient_accumulation_steps, ranks)
    if was != now:
        same = recipe.global_batch_size == layout.global_batch_size
        yield f"{was} becomes {now}" + (": as many samples a step" if same else "")
    if before.compute != chosen.workload.compute:
        yield f"{before.compute} becomes {chosen.workload.compute}, in which this device multiplies"
    if before.activation_checkpointing and not layout.activation_checkpointing:
        yield "activations are kept, which is faster and fits"
    elif layout.activation_checkpointing and not before.activation_checkpointing:
        yield f"activations are recomputed in {layout.recomputed}, so that it fits"


def _batch(micro_batch_size: int, accumulated: int, devices: int) -> str:
    on = f" x {devices} GPUs" if devices > 1 else ""
    return f"micro-batch {micro_batch_size} x accumulation {accumulated}{on}"
