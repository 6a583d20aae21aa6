"""Seconds of one optimizer step: compute, dequantization, update, exposed communication.

Rates are data: the card's datasheet, and the share of its matrix rate that published
training runs reach (presets/speed.yaml). Links are taken at their datasheet rate. A card
without known rates has no step time; candidates are ranked all the same, by the time on a
nominal card, since their order hardly depends on it.
"""

from dataclasses import dataclass
from functools import cache

from planner.communication import Traffic, traffic
from planner.flops import Flops, micro_batch_flops, recomputed_share
from planner.gpu import Cluster
from planner.memory import worst_batch
from planner.numerics import Numerics, numerics_of
from planner.optimizers import optimizers, states_bytes
from planner.presets import ROOT
from planner.recipe import Workload
from planner.spec import Spec, read_spec
from planner.strategy import Layout
from planner.trained_tensors import counted_tensors
from planner.zero import FP32_BYTES


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
    host_link_bytes_per_s: float
    """One direction of the card's own slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Parts in seconds; exposed communication is what backward does not hide."""

    compute_s: float
    dequantize_s: float
    update_s: float
    exposed_communication_s: float
    offload_s: float

    @property
    def total_s(self) -> float:
        return (
            self.compute_s
            + self.dequantize_s
            + self.update_s
            + self.exposed_communication_s
            + self.offload_s
        )


NOMINAL = Rates(
    flops_per_s=100e12,
    bandwidth_bytes_per_s=1e12,
    link_bytes_per_s=25e9,
    host_link_bytes_per_s=25e9,
)
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
        host_link_bytes_per_s=card.pcie_bytes_per_s or NOMINAL.host_link_bytes_per_s,
    )


def step_time(workload: Workload, layout: Layout, cluster: Cluster, speed: Rates) -> StepTime:
    """One optimizer step of one rank; all ranks take the same time.

    What a host needs to update offloaded states is unknown and left out, so that this is a
    lower bound there: it ranks layouts, which all have the same update, and is not shown.
    """
    kinds = numerics_of(workload, layout)
    batch = worst_batch(workload, layout, cluster.device)
    flops = micro_batch_flops(workload, batch, checkpointing=layout.checkpointing)
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
        offload_s=_offload_s(workload, layout, kinds, speed),
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


def _offload_s(workload: Workload, layout: Layout, kinds: Numerics, speed: Rates) -> float:
    """Over the link of each card to the host, not hidden: gradients in fp32 out and updated
    parameters in, once a step; offloaded parameters in, twice a micro-batch."""
    if layout.offload == "none":
        return 0
    shard = workload.trainable_params / layout.world_size
    moved = shard * (FP32_BYTES + kinds.trainable)
    if layout.offload == "all":
        slices = workload.model.num_params * kinds.compute / layout.world_size
        moved += 2 * layout.gradient_accumulation_steps * slices
    return moved / speed.host_link_bytes_per_s


def _updated_bytes(workload: Workload, layout: Layout, kinds: Numerics) -> float:
    """The update reads and writes every state of the rank's shard, and reads the gradient."""
    if layout.offload != "none":
        return 0
    states = states_bytes(
        optimizers()[workload.recipe.optimizer.name],
        counted_tensors(workload),
        width=kinds.home,
        device="cuda",
    )
    params = workload.trainable_params * (kinds.master + kinds.trainable)
    written = states.on_device + states.paged + params
    read = workload.trainable_params * kinds.gradient
    return (2 * written + read) / (layout.world_size if layout.zero_stage else 1)


def _dequantized_bytes(workload: Workload, layout: Layout) -> float:
    """Each pass reads every 4-bit weight, writes it in 16 bit and reads that again; int8 weights
    are multiplied as they are in forward."""
    quantization = workload.recipe.quantization
    if quantization is None:
        return 0
    forwards = 1 + recomputed_share(workload.model.num_layers, layout.checkpointing)
    if quantization.quant_type == "int8":
        return workload.model.matrix_params * (forwards * 1 + (1 + 2 + 2))
    return (forwards + 1) * workload.model.matrix_params * (0.5 + 2 + 2)
