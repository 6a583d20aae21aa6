"""One point of the search: a workload laid out on a cluster, priced when it is asked."""

from dataclasses import dataclass
from functools import cached_property
from math import log, log1p

from planner.hardware.cluster import Cluster
from planner.memory.device_memory import DeviceMemory, device_memory
from planner.memory.footprint import Footprint, footprint
from planner.memory.host import HostMemory, checkpoint_bytes, host_memory, result_bytes
from planner.memory.model_states import least_states_bytes
from planner.plan.training_sections import KEPT_CHECKPOINTS
from planner.plan.vocabulary import PHASES, Method, Part, Phase
from planner.speed.card_rates import NOMINAL, rates, speed_data
from planner.speed.step_time import step_time
from planner.speed.throughput import Throughput, throughput
from planner.workload.dtypes import numerics_of
from planner.workload.layout import Layout
from planner.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A workload laid out on a cluster, with what it costs."""

    workload: Workload
    layout: Layout
    cluster: Cluster
    departures: tuple[str, ...] = ()
    """In what the workload is another than the recipe's, as ``standard loss``."""

    @property
    def method(self) -> Method:
        return self.workload.method

    @cached_property
    def footprint(self) -> Footprint:
        return footprint(
            self.workload,
            self.layout,
            self.cluster.device,
            compute_capability=self.cluster.accelerator.compute_capability,
        )

    @property
    def floor_bytes(self) -> int:
        """At the high end of the range, were the model's states alone on the device: no layout of
        the strategy takes less."""
        nothing: dict[Phase, dict[Part, int]] = {phase: {} for phase in PHASES}
        states = least_states_bytes(self.workload, self.layout, self.cluster.device)
        alone = Footprint(phases={**nothing, "optimizer_step": {"weights": states}})
        return device_memory(alone, self.cluster, self.method).high_bytes

    @cached_property
    def memory(self) -> DeviceMemory:
        return device_memory(self.footprint, self.cluster, self.method)

    @cached_property
    def step_time_s(self) -> float | None:
        """Seconds of one optimizer step, or nothing where the card's rates are unknown."""
        speed = rates(self.cluster)
        if speed is None:
            return None
        return step_time(self.workload, self.layout, self.cluster, speed).total_s

    @cached_property
    def throughput(self) -> Throughput | None:
        """Nothing where the card's rates are unknown."""
        return throughput(self.workload, self.layout, self.cluster)

    @cached_property
    def ranking_time_s(self) -> float:
        """As above, on a nominal card where the real one is unknown; to the nanosecond, so that
        sums in another order are equal."""
        speed = rates(self.cluster) or NOMINAL
        return round(step_time(self.workload, self.layout, self.cluster, speed).total_s, 9)

    @property
    def tokens_per_step(self) -> int:
        return self.layout.global_batch_size * self.workload.settings.sequence_length

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens_per_step / self.step_time_s if self.step_time_s else None

    @cached_property
    def standing(self) -> tuple[int, ...]:
        """Faster first, on a logarithmic scale whose steps the speed model can tell apart; on the
        same step, fewer moving parts."""
        return self.standing_at(self.ranking_time_s)

    def standing_at(self, time_s: float) -> tuple[int, ...]:
        """What it would be, did a step take so long. Each departure counts as a step slower, so
        that what the recipe has yields to no difference that cannot be told."""
        departures = len(self.departures)
        step = int(log(time_s) // log1p(speed_data().told_apart.share))
        return step + departures, *self.layout.moving_parts, departures

    @property
    def rank(self) -> tuple[float, ...]:
        """By standing; among equals the leaner first, then the smaller micro-batch."""
        return (
            *self.standing,
            self.memory.peak_allocated_bytes,
            self.layout.micro_batch_size,
            self.ranking_time_s,
        )

    @cached_property
    def host(self) -> HostMemory:
        return host_memory(
            self.workload,
            self.layout,
            self.cluster,
            peak_allocated_bytes=self.memory.peak_allocated_bytes,
        )

    @property
    def result_bytes(self) -> int:
        """On disk, at the end."""
        return result_bytes(self.workload, numerics_of(self.workload, self.layout))

    @property
    def checkpoint_bytes(self) -> int:
        """On disk, of one of those that are written on the way."""
        return checkpoint_bytes(self.workload, self.layout, self.cluster.device)

    @property
    def disk_bytes(self) -> int:
        """For the result, and one checkpoint more than a plan keeps while that is written."""
        return self.result_bytes + (KEPT_CHECKPOINTS + 1) * self.checkpoint_bytes

    def fits(self, budget_bytes: int) -> bool:
        """On the device; and on the host, where that was read and must hold what is offloaded."""
        if self.memory.high_bytes > budget_bytes:
            return False
        host = self.cluster.host_ram_bytes
        return self.layout.offload == "none" or host is None or self.host.node_bytes <= host
