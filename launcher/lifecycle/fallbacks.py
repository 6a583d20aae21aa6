"""What to try next when memory runs out: the plan's leaner layouts, of the same global batch."""

from msgspec import structs

from planner.base.errors import UserError
from planner.plan.prediction_section import PredictionSection
from planner.plan.schema import Fallback, Plan
from planner.search.repredict import predicted


def fallback_plans(plan: Plan) -> list[Plan]:
    """Leaner and leaner. Those of the plan's own strategy alone: no checkpoint of one strategy
    can be continued under another."""
    return [
        _with_layout(plan, fallback)
        for fallback in plan.fallbacks
        if fallback.strategy == plan.parallel.strategy and keeps_batch(plan, fallback)
    ]


def keeps_batch(plan: Plan, fallback: Fallback) -> bool:
    """Whether it still makes the plan's global batch, which may have been set anew."""
    micro = fallback.micro_batch_size * fallback.gradient_accumulation_steps
    return micro * plan.parallel.world_size == plan.batch.global_batch_size


def describe_layout(plan: Plan) -> str:
    """In one line: what a fallback changes."""
    batch = plan.batch
    words = f"micro-batches of {batch.micro_batch_size} x {batch.gradient_accumulation_steps}"
    if not plan.activation_checkpointing:
        return f"{words}, no activation checkpointing"
    every = f" of every {plan.checkpoint_every} layers" if plan.checkpoint_every > 1 else ""
    return f"{words}, activation checkpointing{every}"


def layout_options(plan: Plan) -> str:
    """The same as options to type."""
    return " ".join(f"--set {key}={value}" for key, value in layout_settings(plan).items())


def layout_settings(plan: Plan) -> dict[str, str]:
    """What a fallback changes, by the plan's keys."""
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
            each
            for each in plan.fallbacks
            if each.peak_allocated_bytes < fallback.peak_allocated_bytes
        ),
    )
    try:
        return predicted(changed)
    except UserError:
        return changed


def _scaled(plan: Plan, peak_bytes: int) -> PredictionSection:
    """Where the model's shape is not in the plan: its own range around the fallback's peak."""
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
