"""The layouts to try when memory runs out: the plan's leaner ones, of the same global batch.

attempt_loop.py tries them.
"""

from collections.abc import Sequence

from msgspec import structs

from planner.base.errors import UserError
from planner.base.phrases import Phrase
from planner.base.units import format_gib
from planner.plan.prediction_section import PredictionSection
from planner.plan.schema import Fallback, Plan
from planner.search.repredict import predicted


def fallback_plans(plan: Plan) -> list[Plan]:
    """Return the plan in its leaner layouts, the least lean first.

    Only those of the plan's strategy: a checkpoint cannot be resumed under another strategy.
    """
    return [
        _with_layout(plan, fallback)
        for fallback in plan.fallbacks
        if fallback.strategy == plan.parallel.strategy and keeps_batch(plan, fallback)
    ]


def keeps_batch(plan: Plan, fallback: Fallback) -> bool:
    """Return whether a layout makes the plan's global batch, which ``--set`` may have changed."""
    micro = fallback.micro_batch_size * fallback.gradient_accumulation_steps
    return micro * plan.parallel.data_ranks == plan.batch.global_batch_size


def within_room(plans: Sequence[Plan], room: int | None) -> tuple[list[Plan], list[str]]:
    """Return the plans that may fit into the bytes that a rank could have, and a line on the rest.

    ``room`` is None if it is unknown. A plan may fit if the lower end of its prediction does.
    """
    if room is None:
        return list(plans), []
    lines: list[str] = [
        Phrase(
            "skipped: {layout}, which needs {low} GiB at least; the rank "
            "could have {room} GiB of its GPU",
            layout=describe_layout(plan),
            low=format_gib(plan.prediction.low_bytes),
            room=format_gib(room),
        )
        for plan in plans
        if plan.prediction.low_bytes > room
    ]
    return [plan for plan in plans if plan.prediction.low_bytes <= room], lines


def describe_layout(plan: Plan) -> str:
    """Return, in one line, what a fallback may change."""
    batch = plan.batch
    words = Phrase(
        "micro-batches of {micro_batch} x {accumulation}",
        micro_batch=batch.micro_batch_size,
        accumulation=batch.gradient_accumulation_steps,
    )
    if not plan.activation_checkpointing:
        return Phrase("{words}, no activation checkpointing", words=words)
    if plan.checkpoint_every > 1:
        return Phrase(
            "{words}, activation checkpointing of every {number} layers",
            words=words,
            number=plan.checkpoint_every,
        )
    return Phrase("{words}, activation checkpointing", words=words)


def layout_options(plan: Plan) -> str:
    """Return the plan's layout as options to type."""
    return " ".join(f"--set {key}={value}" for key, value in layout_settings(plan).items())


def layout_settings(plan: Plan) -> dict[str, str]:
    """Return what a fallback may change, by the plan's keys."""
    return {
        "batch.micro_batch_size": str(plan.batch.micro_batch_size),
        "batch.gradient_accumulation_steps": str(plan.batch.gradient_accumulation_steps),
        "activation_checkpointing": str(plan.activation_checkpointing).lower(),
        "checkpoint_every": str(plan.checkpoint_every),
    }


def _with_layout(plan: Plan, fallback: Fallback) -> Plan:
    batch = structs.replace(
        plan.batch,
        micro_batch_size=fallback.micro_batch_size,
        gradient_accumulation_steps=fallback.gradient_accumulation_steps,
    )
    changed = structs.replace(
        plan,
        batch=batch,
        activation_checkpointing=fallback.activation_checkpointing,
        checkpoint_every=fallback.checkpoint_every,
        prediction=_scaled(plan, fallback.peak_allocated_bytes),
        fallbacks=tuple(
            leaner
            for leaner in plan.fallbacks
            if leaner.peak_allocated_bytes < fallback.peak_allocated_bytes
        ),
    )
    try:
        return predicted(changed)
    except UserError:
        return changed


def _scaled(plan: Plan, peak_bytes: int) -> PredictionSection:
    """Return the plan's prediction moved to another peak, for a plan without a model's shape."""
    before = plan.prediction
    difference = peak_bytes - before.peak_allocated_bytes
    return structs.replace(
        before,
        peak_allocated_bytes=peak_bytes,
        low_bytes=before.low_bytes + difference,
        high_bytes=before.high_bytes + difference,
        step_time_s=None,
        tokens_per_second=None,
    )
