"""What a plan changes in the recipe that it follows, and why. No function has side effects."""

from collections.abc import Iterator

from planner.base.phrases import Phrase
from planner.decision.request import Request
from planner.recipes.recipe import Recipe, WrittenFor
from planner.search.candidate import Candidate


def changes(request: Request, recipe: Recipe, chosen: Candidate) -> Iterator[str]:
    """Yield a sentence for each change to ``recipe``, which is as its author wrote it.

    A change that an option asks for has no reason but the option.
    """
    planned = chosen.workload.settings
    if recipe.method != planned.method:
        quantized = Phrase("its base is quantized")
        yield quantized if planned.quantization else Phrase("its base is not quantized")
    if recipe.sequence_length != planned.sequence_length:
        yield Phrase(
            "{length:,} tokens per sample instead of {before:,}",
            length=planned.sequence_length,
            before=recipe.sequence_length,
        )
    if recipe.global_batch_size != planned.global_batch_size:
        yield Phrase(
            "{samples} {samples[sample|samples]} per step instead of {before}{why}",
            samples=planned.global_batch_size,
            before=recipe.global_batch_size,
            why=_why_rounded(request),
        )
    if recipe.written_for is not None:
        yield from _machine_changes(request, recipe, recipe.written_for, chosen)


def _why_rounded(request: Request) -> str:
    if request.global_batch_size is not None:
        return ""
    if request.micro_batch_size is not None:
        return Phrase(", so that every micro-batch is full")
    return Phrase(", so that every GPU has as many")


def _machine_changes(
    request: Request, recipe: Recipe, before: WrittenFor, chosen: Candidate
) -> Iterator[str]:
    layout, ranks = chosen.layout, chosen.layout.data_ranks
    accumulated = recipe.global_batch_size // (before.micro_batch_size * before.devices)
    was = _batch(before.micro_batch_size, accumulated, before.devices)
    now = _batch(layout.micro_batch_size, layout.gradient_accumulation_steps, ranks)
    if was != now:
        same = recipe.global_batch_size == layout.global_batch_size
        why = Phrase(": as many samples per step") if same else ""
        yield Phrase("{was} becomes {now}{why}", was=was, now=now, why=why)
    if before.compute != chosen.workload.compute:
        why = "" if request.precision is not None else Phrase(", which this device multiplies in")
        yield Phrase(
            "{was} becomes {now}{why}",
            was=before.compute,
            now=chosen.workload.compute,
            why=why,
        )
    asked = (request.activation_checkpointing, request.checkpoint_every) != (None, None)
    if before.activation_checkpointing and not layout.activation_checkpointing:
        why = "" if asked else Phrase(", which is faster and fits")
        yield Phrase("activations are kept{why}", why=why)
    elif layout.activation_checkpointing and not before.activation_checkpointing:
        why = "" if asked else Phrase(", so that it fits")
        yield Phrase(
            "activations are recomputed in {recomputed}{why}", recomputed=layout.recomputed, why=why
        )


def _batch(micro_batch_size: int, accumulated: int, devices: int) -> str:
    on = Phrase(" x {devices} GPUs", devices=devices) if devices > 1 else ""
    return Phrase(
        "micro-batch {micro_batch_size} x accumulation {accumulated}{on}",
        micro_batch_size=micro_batch_size,
        accumulated=accumulated,
        on=on,
    )
