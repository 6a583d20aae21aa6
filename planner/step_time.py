"""Seconds of one optimizer step: compute, dequantization, update, exposed communication.

Rates are data: the card's datasheet, and the share of its matrix rate that published
training runs reach (presets/speed.yaml). Links are taken at their datasheet rate. A card
without known rates has no step time; candidates are ranked all the same, by the time on a
nominal card, since their order hardly depends on it.
"""

from dataclasses import dataclass
from functools import cache

from planner.communication import Traffic, traffic
from planner.flops import Flops, micro_batch_flops
from planner.gpu import Cluster
from planner.memory import worst_batch
from planner.model_states import ADAM_MOMENTS_BYTES
from planner.numerics import Numerics, numerics
from planner.presets import ROOT
from planner.recipe import Workload
from planner.spec import Spec, read_spec
from planner.strategy import Layout


class Utilisation(Spec):
    """Least, median and most over published runs of one kind."""

    low: float
    expected: float
    high: float
    runs: int
    source: str


class UtilisationByMethod(Spec):
    adapters: Utilisation
    full: Utilisation


class SpeedData(Spec):
    flops_utilisation: UtilisationByMethod


@cache
def speed_data() -> SpeedData:
    return read_spec(SpeedData, ROOT / "speed.yaml")


def utilisation(workload: Workload) -> Utilisation:
    kinds = speed_data().flops_utilisation
    return kinds.full if workload.method == "full" else kinds.adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """One device's datasheet, the link as its name says."""

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


NOMINAL = Rates(flops_per_s=100e12, bandwidth_bytes_per_s=1e12, link_bytes_per_s=25e9)
"""Round figures of a mid-range card on PCIe 4.0, for ranking only: never shown."""


def rates(cluster: Cluster) -> Rates | None:
    """The cards' rates, or nothing where they are not known."""
    card = cluster.accelerator.speed
    if card is None or card.dense_bf16_flops_per_s is None:
        return None
    return Rates(
        flops_per_s=card.dense_bf16_flops_per_s,
        bandwidth_bytes_per_s=card.memory_bandwidth_bytes_per_s or NOMINAL.bandwidth_bytes_per_s,
        link_bytes_per_s=cluster.link_bytes_per_s or NOMINAL.link_bytes_per_s,
    )


def step_time(workload: Workload, layout: Layout, cluster: Cluster, speed: Rates) -> StepTime:
    """One optimizer step of one rank; all ranks take the same time."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=layout.zero_stage)
    batch = worst_batch(workload, layout, cluster.device)
    flops = micro_batch_flops(workload, batch, checkpointing=layout.activation_checkpointing)
    micro_batches = layout.gradient_accumulation_steps
    sent = traffic(workload, layout, kinds)
    reached = speed.flops_per_s * utilisation(workload).expected
    return StepTime(
        compute_s=micro_batches * flops.hardware / reached,
        dequantize_s=(
            micro_batches * _dequantized_bytes(workload, layout) / speed.bandwidth_bytes_per_s
        ),
        update_s=_updated_bytes(workload, layout, kinds) / speed.bandwidth_bytes_per_s,
        exposed_communication_s=_exposed_s(sent, layout, flops, speed, reached),
    )


def _exposed_s(
    sent: Traffic, layout: Layout, flops: Flops, speed: Rates, reached_flops_per_s: float
) -> float:
    """Seconds of communication beyond what runs beside compute."""
    micro_batches = layout.gradient_accumulation_steps
    beside = {
        "zero2": micro_batches * (flops.backward + flops.recompute),
        "zero3": micro_batches * flops.hardware,
    }.get(layout.strategy, flops.backward + flops.recompute)
    overlapped_s = sent.overlapped_bytes / speed.link_bytes_per_s
    late_s = max(0.0, overlapped_s - beside / reached_flops_per_s)
    return late_s + sent.exposed_bytes / speed.link_bytes_per_s


def _updated_bytes(workload: Workload, layout: Layout, kinds: Numerics) -> float:
    """The update reads and writes every state of the rank's shard, and reads the gradient."""
    shard = workload.trainable_params / (layout.world_size if layout.zero_stage else 1)
    states = ADAM_MOMENTS_BYTES + kinds.master + kinds.trainable
    return shard * (2 * states + kinds.gradient)


def _dequantized_bytes(workload: Workload, layout: Layout) -> float:
    """Each pass reads every 4-bit weight, writes it in 16 bit and reads that again."""
    if workload.recipe.quantization is None:
        return 0
    passes = 3 if layout.activation_checkpointing else 2
    return passes * workload.model.matrix_params * (0.5 + 2 + 2)
