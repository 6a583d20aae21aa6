"""What a plan changes in the recipe that it follows, and why. No function has side effects."""

from collections.abc import Iterator

from planner.decision.request import Request
from planner.recipes.recipe import Recipe, WrittenFor
from planner.search.candidate import Candidate


def changes(request: Request, recipe: Recipe, chosen: Candidate) -> Iterator[str]:
    """Yield a sentence for each change to ``recipe``, which is as its author wrote it.

    A change that an option asks for has no reason but the option.
    """
    planned = chosen.workload.settings
    if recipe.method != planned.method:
        yield "its base is " + ("quantized" if planned.quantization else "not quantized")
    if recipe.sequence_length != planned.sequence_length:
        yield (
            f"{planned.sequence_length:,} tokens per sample instead of {recipe.sequence_length:,}"
        )
    if recipe.global_batch_size != planned.global_batch_size:
        yield (
            f"{planned.global_batch_size} samples per step instead of "
            f"{recipe.global_batch_size}{_why_rounded(request)}"
        )
    if recipe.written_for is not None:
        yield from _machine_changes(request, recipe, recipe.written_for, chosen)


def _why_rounded(request: Request) -> str:
    if request.global_batch_size is not None:
        return ""
    if request.micro_batch_size is not None:
        return ", so that every micro-batch is full"
    return ", so that every GPU has as many"


def _machine_changes(
    request: Request, recipe: Recipe, before: WrittenFor, chosen: Candidate
) -> Iterator[str]:
    layout, ranks = chosen.layout, chosen.layout.world_size
    accumulated = recipe.global_batch_size // (before.micro_batch_size * before.devices)
    was = _batch(before.micro_batch_size, accumulated, before.devices)
    now = _batch(layout.micro_batch_size, layout.gradient_accumulation_steps, ranks)
    if was != now:
        same = recipe.global_batch_size == layout.global_batch_size
        yield f"{was} becomes {now}" + (": as many samples per step" if same else "")
    if before.compute != chosen.workload.compute:
        why = "" if request.precision is not None else ", which this device multiplies in"
        yield f"{before.compute} becomes {chosen.workload.compute}{why}"
    asked = (request.activation_checkpointing, request.checkpoint_every) != (None, None)
    if before.activation_checkpointing and not layout.activation_checkpointing:
        yield "activations are kept" + ("" if asked else ", which is faster and fits")
    elif layout.activation_checkpointing and not before.activation_checkpointing:
        why = "" if asked else ", so that it fits"
        yield f"activations are recomputed in {layout.recomputed}{why}"


def _batch(micro_batch_size: int, accumulated: int, devices: int) -> str:
    on = f" x {devices} GPUs" if devices > 1 else ""
    return f"micro-batch {micro_batch_size} x accumulation {accumulated}{on}"
