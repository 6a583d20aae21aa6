"""The least that a step takes with the stock loss in the place of the fused one, from the kernels
of a step with the fused one: what saves counting the others.

    w  bytes of an operand

The fused loss makes the head's product again for the gradient; the stock one does not, and passes
over all logits (planner/loss.py, cross_entropy), for each of which it reads and writes

    cast to fp32, and the gradient back     w + 4 and 4 + w
    log-probabilities                       4 + 4
    gradient of the log-probabilities       4
    gradient of the logits                  4 + 4

Of all else that only moves data outside of the layers nothing is taken to be left.
"""

from functools import cache
from typing import NamedTuple

from planner.candidate import Candidate
from planner.efficiency import NOMINAL, Rates, rates
from planner.gpu import Device
from planner.kernels import Kernel
from planner.numerics import Numerics, numerics_of
from planner.operators import FP32
from planner.pass_work import outside_layers, pass_time
from planner.recipe import Workload
from planner.step_time import launch_s

IN_FP32 = 5 * FP32
"""The table's rows but the first."""
ROUNDED_S = 1e-9
"""To which times are ranked."""


class _Change(NamedTuple):
    """Of one micro-batch."""

    seconds: float
    launches: int


def most_saved_s(fused: Candidate) -> float:
    """Of a step's seconds with the fused loss, what the stock one could save at the most."""
    workload, layout, device = fused.workload, fused.layout, fused.cluster.device
    kinds, speed = numerics_of(workload, layout), rates(fused.cluster) or NOMINAL
    samples, checkpointing = layout.micro_batch_size, layout.checkpointing
    passed = pass_time(
        workload, kinds, samples, checkpointing=checkpointing, device=device, speed=speed
    )
    change = _least_change(workload, kinds, samples, device, speed)
    least = passed._replace(
        products_s=passed.products_s + change.seconds,
        kernels=passed.kernels - change.launches,
    )
    before, after = (each.busy_s + launch_s(each, speed) for each in (passed, least))
    return layout.gradient_accumulation_steps * max(0.0, before - after) + ROUNDED_S


@cache
def _least_change(
    fused: Workload, kinds: Numerics, samples: int, device: Device, speed: Rates
) -> _Change:
    seconds, launches = 0.0, 0
    for kernel, times in outside_layers(fused, kinds, samples, device):
        launches += times
        if kernel.phase == "recompute":
            seconds += times * _passes_s(kernel, fused.model.hidden_size, speed)
        if kernel.phase == "recompute" or kernel.kind == "elementwise":
            seconds -= times * speed.seconds(kernel)
    return _Change(seconds, launches)


def _passes_s(product: Kernel, hidden_size: int, speed: Rates) -> float:
    """Over the logits that the head's product makes."""
    logits = product.flops // (2 * hidden_size)
    casts = 2 * (product.width + FP32) if product.width < FP32 else 0
    return logits * (casts + IN_FP32) / speed.bandwidth_bytes_per_s
