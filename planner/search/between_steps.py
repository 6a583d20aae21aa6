"""Memory between training steps of a candidate."""

from typing import NamedTuple

from planner.memory.between_steps import evaluation_parts, generation_parts
from planner.memory.buffers import Parts
from planner.search.candidate import Candidate


class BetweenSteps(NamedTuple):
    """Bytes by part at the largest moment of each."""

    evaluation: Parts
    generation: Parts


def between_steps(chosen: Candidate) -> BetweenSteps:
    """Of an evaluation whose batches are as large as a micro-batch, and of a generated sample."""
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
