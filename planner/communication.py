"""Bytes that one rank sends for one optimizer step, by strategy.

Source: Rajbhandari et al., arXiv:1910.02054, section 7. A ring all-reduce of n bytes sends
2 n (N - 1) / N, a reduce-scatter or an all-gather half of it. ZeRO-1 and ZeRO-2 send what
an all-reduce does; ZeRO-3 gathers the parameters for forward and again for backward, in
every micro-batch.
"""

from planner.numerics import Numerics
from planner.recipe import Workload
from planner.strategy import Layout


def bytes_per_step(workload: Workload, layout: Layout, numerics: Numerics) -> int:
    """Sent by one rank between two optimizer steps."""
    ranks = layout.world_size
    if ranks == 1:
        return 0
    gradients = workload.trainable_params * numerics.gradient
    parameters = workload.model.num_params * numerics.compute
    micro_batches = layout.gradient_accumulation_steps
    one_pass = {
        "ddp": 2 * gradients,
        "zero1": gradients + workload.trainable_params * numerics.trainable,
        # Gradients are reduced after every micro-batch, since no rank keeps them all.
        "zero2": micro_batches * gradients + workload.trainable_params * numerics.trainable,
        "zero3": micro_batches * (2 * parameters + gradients),
    }[layout.strategy]
    return one_pass * (ranks - 1) // ranks
