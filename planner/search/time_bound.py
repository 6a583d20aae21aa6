"""A lower bound on the time of a step with the stock loss, from the kernels of a step with the
fused loss: what saves counting the kernels twice.

    w  bytes of an operand

The fused loss makes the head's product again for the gradient; the stock one does not, and passes
over all logits (planner/forward/loss.py, cross_entropy), for each of which it reads and writes

    cast to fp32, and the gradient back     w + 4 and 4 + w
    log-probabilities                       4 + 4
    gradient of the log-probabilities       4
    gradient of the logits                  4 + 4

All other kernels outside of the layers that only move data are taken to cost no time. The reverse,
the fused loss instead of the stock one, is open on the CPU alone, and saves no time there: each
tile is copied more often than the stock loss passes over it (TORCH_TILE_BYTES).
"""

from msgspec import Struct, structs

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.plan.vocabulary import Strategy
from planner.search.candidate import Candidate
from planner.speed.card_rates import NOMINAL, Rates, rates, with_hooks
from planner.speed.pass_time import outside_layers, pass_time
from planner.speed.step_time import launch_s
from planner.tape.counting_tape import Kernel
from planner.tape.tape import MATRIX_PRODUCTS
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.settings_cache import TRAINING_PASS, cached_by_settings
from planner.workload.workload import Workload

IN_FP32 = 5 * FP32_BYTES
"""Bytes per logit of the table's rows but the first."""
ROUNDED_S = 1e-9
"""Seconds to which times are rounded for ranking."""


class _Change(Struct, frozen=True):
    """What the stock loss changes in the time of one micro-batch."""

    seconds: float
    launches: int


def most_saved_s(candidate: Candidate) -> float:
    """Return the most seconds that another loss saves in a step of the candidate."""
    if candidate.workload.loss == "standard":
        return ROUNDED_S
    layout, speed = candidate.layout, rates(candidate.cluster) or NOMINAL
    pass_s = _most_saved_of_pass_s(
        candidate.workload,
        numerics_of(candidate.workload, layout),
        layout.micro_batch_size,
        layout.checkpointing,
        candidate.cluster.device,
        speed,
        layout.strategy,
        layout.sequence_ranks,
    )
    return layout.gradient_accumulation_steps * pass_s + ROUNDED_S


@cached_by_settings(*TRAINING_PASS, "sequence_length")
def _most_saved_of_pass_s(
    fused: Workload,
    kinds: Numerics,
    samples: int,
    checkpointing: int,
    device: Device,
    speed: Rates,
    strategy: Strategy,
    ranks: int,
) -> float:
    passed = pass_time(
        fused,
        kinds,
        samples,
        checkpointing=checkpointing,
        device=device,
        speed=speed,
        sequence_ranks=ranks,
    )
    change = _least_change(fused, kinds, samples, device, speed, ranks)
    least = structs.replace(
        passed,
        products_s=passed.products_s + change.seconds,
        kernels=passed.kernels - change.launches,
    )
    host = with_hooks(speed, strategy)
    before, after = (times.busy_s + launch_s(times, host) for times in (passed, least))
    return max(0.0, before - after)


@cached_by_settings(*TRAINING_PASS, "sequence_length")
def _least_change(
    fused: Workload, kinds: Numerics, samples: int, device: Device, speed: Rates, ranks: int
) -> _Change:
    seconds, launches = 0.0, 0
    for kernel, times in outside_layers(fused, kinds, samples, device, ranks):
        launches += times
        if kernel.phase == "recompute":
            seconds += times * _passes_s(kernel, fused.model.hidden_size, speed)
        if kernel.phase == "recompute" or kernel.kind in ("elementwise", "exponential"):
            seconds -= times * speed.seconds(kernel)
        elif kernel.phase == "backward" and kernel.kind in MATRIX_PRODUCTS:
            seconds -= times * (speed.seconds(kernel) - speed.seconds(_narrow(kernel, kinds)))
    return _Change(seconds, launches)


def _narrow(product: Kernel, kinds: Numerics) -> Kernel:
    """Return a product of the operands that the stock loss has: the fused one copies them to fp32
    where there is no Triton."""
    width = min(product.width, kinds.compute)
    num_bytes = product.num_bytes * width // product.width
    return structs.replace(product, width=width, num_bytes=num_bytes)


def _passes_s(product: Kernel, hidden_size: int, speed: Rates) -> float:
    """Return seconds of passing over the logits that the head's product makes."""
    logits = product.flops // (2 * hidden_size)
    casts = 2 * (product.width + FP32_BYTES) if product.width < FP32_BYTES else 0
    return logits * (casts + IN_FP32) / speed.bandwidth_bytes_per_s
