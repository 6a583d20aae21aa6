"""Bytes that one rank sends, by strategy: what compute may hide and what it cannot.

Source: Rajbhandari et al., arXiv:1910.02054, section 7. A ring all-reduce of n bytes sends
2 n (N - 1) / N, a reduce-scatter or an all-gather half of it.

    strategy   under backward, a step           after or before compute, exposed
    DDP        all-reduce of gradients          its last bucket
    ZeRO-1     reduce-scatter of gradients      all-gather of updated parameters
    ZeRO-2     the same in each micro-batch     the same
    ZeRO-3     in each micro-batch: all-gather  in each pass, the first gather: the
               for forward, for backward, and   embedding or the head, and one layer
               reduce-scatter
"""

from dataclasses import dataclass

from planner.numerics import Numerics
from planner.recipe import Workload
from planner.strategy import Layout
from planner.units import MIB

DDP_BUCKET_BYTES = 25 * MIB
"""read: torch/nn/parallel/distributed.py, bucket_cap_mb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Sent by one rank for one optimizer step, in bytes."""

    overlapped_bytes: int
    """What backward (for ZeRO-3: all compute) can hide while it lasts."""
    exposed_bytes: int


def traffic(workload: Workload, layout: Layout, numerics: Numerics) -> Traffic:
    """The table at the top of this module."""
    ranks = layout.world_size
    gradients = workload.trainable_params * numerics.gradient
    updated = workload.trainable_params * numerics.trainable
    parameters = workload.model.num_params * numerics.compute
    first_params = workload.model.embedding_params + workload.model.largest_layer_params
    micro_batches = layout.gradient_accumulation_steps
    overlapped, exposed = {
        "single": (0, 0),
        "ddp": (2 * gradients, 2 * min(gradients, DDP_BUCKET_BYTES)),
        "zero1": (gradients, updated),
        "zero2": (micro_batches * gradients, updated),
        "zero3": (
            micro_batches * (2 * parameters + gradients),
            micro_batches * 2 * first_params * numerics.compute,
        ),
    }[layout.strategy]
    return Traffic(
        overlapped_bytes=overlapped * (ranks - 1) // ranks,
        exposed_bytes=exposed * (ranks - 1) // ranks,
    )
