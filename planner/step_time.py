"""Seconds of one optimizer step: compute, dequantization, update, exposed communication.

Rates are data: the card's datasheet, and the share of it that published training runs
reach (presets/speed.yaml). A card without known rates has no step time. Candidates are
ranked all the same, by the time on a nominal card, since their order hardly depends on it.
"""

from dataclasses import dataclass
from functools import cache

from planner.communication import bytes_per_step
from planner.flops import micro_batch_flops
from planner.gpu import Cluster
from planner.memory import micro_batch
from planner.model_states import ADAM_MOMENTS_BYTES
from planner.numerics import numerics
from planner.presets import ROOT
from planner.recipe import Workload
from planner.spec import Spec, read_spec
from planner.strategy import Layout

NOMINAL_FLOPS_PER_S = 100 * 10**12
NOMINAL_BANDWIDTH_BYTES_PER_S = 10**12
NOMINAL_LINK_BYTES_PER_S = 25 * 10**9
"""Round figures of a mid-range card on PCIe 4.0, for ranking only: never shown."""


class FlopsUtilisation(Spec):
    low: float
    expected: float
    high: float
    runs: int
    source: str


class LinkUtilisation(Spec):
    expected: float
    source: str


class SpeedData(Spec):
    flops_utilisation: FlopsUtilisation
    link_utilisation: LinkUtilisation


@cache
def speed_data() -> SpeedData:
    return read_spec(SpeedData, ROOT / "speed.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    flops_per_s: float
    bandwidth_bytes_per_s: float
    link_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Parts in seconds; exposed communication is what backward does not hide."""

    compute_s: float
    dequantize_s: float
    update_s: float
    exposed_communication_s: float

    @property
    def total_s(self) -> float:
        return self.compute_s + self.dequantize_s + self.update_s + self.exposed_communication_s


def rates(cluster: Cluster) -> Rates | None:
    """What the cards reach, or nothing where their rates are not known."""
    card = cluster.accelerator.speed
    if card is None or card.dense_bf16_flops_per_s is None:
        return None
    data = speed_data()
    link = cluster.link_bytes_per_s or NOMINAL_LINK_BYTES_PER_S
    return Rates(
        flops_per_s=card.dense_bf16_flops_per_s * data.flops_utilisation.expected,
        bandwidth_bytes_per_s=card.memory_bandwidth_bytes_per_s or NOMINAL_BANDWIDTH_BYTES_PER_S,
        link_bytes_per_s=link * data.link_utilisation.expected,
    )


def nominal_rates() -> Rates:
    data = speed_data()
    return Rates(
        flops_per_s=NOMINAL_FLOPS_PER_S * data.flops_utilisation.expected,
        bandwidth_bytes_per_s=NOMINAL_BANDWIDTH_BYTES_PER_S,
        link_bytes_per_s=NOMINAL_LINK_BYTES_PER_S * data.link_utilisation.expected,
    )


def step_time(workload: Workload, layout: Layout, cluster: Cluster, speed: Rates) -> StepTime:
    """One optimizer step of one rank; all ranks take the same time."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=layout.zero_stage)
    batch = micro_batch(workload, layout, cluster.device)
    flops = micro_batch_flops(workload, batch, checkpointing=layout.activation_checkpointing)
    micro_batches = layout.gradient_accumulation_steps
    compute_s = micro_batches * flops.hardware / speed.flops_per_s
    backward_s = (flops.backward + flops.recompute) / speed.flops_per_s
    hidden_s = backward_s * (micro_batches if layout.zero_stage >= 2 else 1)
    sent_s = bytes_per_step(workload, layout, kinds) / speed.link_bytes_per_s
    shard = workload.trainable_params / (layout.world_size if layout.zero_stage else 1)
    # Read and write every state, and read the gradient.
    update_bytes = shard * (
        2 * (ADAM_MOMENTS_BYTES + kinds.master + kinds.trainable) + kinds.gradient
    )
    return StepTime(
        compute_s=compute_s,
        dequantize_s=micro_batches
        * _dequantized_bytes(workload, layout)
        / speed.bandwidth_bytes_per_s,
        update_s=update_bytes / speed.bandwidth_bytes_per_s,
        exposed_communication_s=max(0.0, sent_s - hidden_s),
    )


def _dequantized_bytes(workload: Workload, layout: Layout) -> float:
    """Each pass reads every 4-bit weight, writes it in 16 bit and reads that again."""
    if workload.recipe.quantization is None:
        return 0
    weights = workload.model.num_layers * workload.model.layer_linear_params
    passes = 3 if layout.activation_checkpointing else 2
    return passes * weights * (0.5 + 2 + 2)
