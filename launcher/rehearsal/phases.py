"""Bytes by phase and part, as a plan predicts them for a rehearsal. Does not import torch."""

from typing import Literal

from planner.plan.schema import Plan
from planner.plan.vocabulary import SHARDS_NOTHING, SHARES_SAMPLES

Phases = dict[str, dict[str, int]]
"""Bytes of each part, or of each reading, at the largest moment of each phase."""

Between = Literal["nothing", "evaluation", "evaluation and checkpoint"]
"""What a rehearsal has of what a run does between two steps."""


def cuts_layers(plan: Plan) -> bool:
    """Return whether a rank computes a part of every layer."""
    return plan.parallel.strategy in SHARES_SAMPLES


def updates_alone(plan: Plan) -> bool:
    """Return whether a rank updates all that it has of the parameters by PyTorch's optimizer."""
    return plan.parallel.strategy in SHARDS_NOTHING or cuts_layers(plan)


def random_weights(plan: Plan) -> Phases:
    """Return the prediction where no files are read, and so no experts are stacked."""
    load = plan.prediction.load_without_files
    return plan.prediction.phases | ({"load": load} if load else {})
