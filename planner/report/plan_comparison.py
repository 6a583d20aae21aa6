"""Plans side by side: what is predicted of each, and the settings in which they differ."""

from collections.abc import Sequence
from typing import Any

from planner.base.phrases import Phrase
from planner.base.units import format_duration, format_gib
from planner.page.side_by_side import UNKNOWN, SideBySide
from planner.plan.plan_differences import plan_differences
from planner.plan.prediction_section import PredictionSection
from planner.plan.schema import Plan
from planner.search.repredict import predicted

COMPARED = ("high_bytes", "peak_allocated_bytes", "step_time_s", "tokens_per_second")


def with_prediction(plan: Plan, *, edited: bool) -> Plan:
    """Return the plan; one that was edited, with its prediction made anew if it has its shape."""
    return predicted(plan) if edited and plan.model.config is not None else plan


def comparison_document(names: Sequence[str], plans: Sequence[Plan]) -> dict[str, Any]:
    """Return the comparison as plain data; bytes are integers."""
    return {
        "plans": list(names),
        "predicted": [{key: getattr(plan.prediction, key) for key in COMPARED} for plan in plans],
        "differences": plan_differences(plans),
    }


def comparison_table(names: Sequence[str], plans: Sequence[Plan]) -> SideBySide:
    """Return the comparison as a table with a column for each plan."""
    different = list(plan_differences(plans).items())
    words = [_prediction_words(plan.prediction) for plan in plans]
    rows = [(key, [each[key] for each in words]) for key in words[0]]
    heading = Phrase("differs") if different else Phrase("nothing differs")
    return SideBySide(names, [(Phrase("predicted"), rows), (heading, different)])


def _prediction_words(prediction: PredictionSection) -> dict[str, str]:
    step, speed = prediction.step_time_s, prediction.tokens_per_second
    return {
        Phrase("GPU memory, worst case"): f"{format_gib(prediction.high_bytes)} GiB",
        Phrase("allocated at the peak"): f"{format_gib(prediction.peak_allocated_bytes)} GiB",
        Phrase("host memory per node"): f"{format_gib(prediction.host_ram_bytes)} GiB",
        Phrase("time per step"): UNKNOWN if step is None else format_duration(step),
        Phrase("tokens per second"): UNKNOWN if speed is None else f"{speed:,.0f}",
    }
