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
    accelerator, training = chosen.cluster.accelerator, chosen.footprint
    capability, processors = accelerator.compute_capability, accelerator.multiprocessors
    evaluation, generation = (
        parts(
            workload,
            layout,
            device,
            training,
            compute_capability=capability,
            multiprocessors=processors,
        )
        for parts in (evaluation_parts, generation_parts)
    )
    return BetweenSteps(evaluation, generation)
