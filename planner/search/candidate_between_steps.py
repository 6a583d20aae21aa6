"""Memory that a candidate needs between training steps."""

from typing import NamedTuple

from planner.memory.between_steps import evaluation_parts, generation_parts
from planner.memory.buffers import Parts
from planner.search.candidate import Candidate


class BetweenSteps(NamedTuple):
    """Bytes by part at the largest moment of an evaluation and of a generation."""

    evaluation: Parts
    generation: Parts


def between_steps(chosen: Candidate) -> BetweenSteps:
    """Return what an evaluation with batches as large as a micro-batch needs, and one generated
    sample."""
    workload, layout, device = chosen.workload, chosen.layout, chosen.cluster.device
    capability = chosen.cluster.accelerator.compute_capability
    return BetweenSteps(
        evaluation=evaluation_parts(
            workload, layout, device, chosen.footprint, compute_capability=capability
        ),
        generation=generation_parts(
            workload, layout, device, chosen.footprint, compute_capability=capability
        ),
    )
