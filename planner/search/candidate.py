"""One candidate plan. Memory and time are computed lazily, on first access."""

from functools import cached_property
from math import log, log1p

from msgspec import Struct

from planner.hardware.cluster import Cluster
from planner.memory.device_memory import DeviceMemory, device_memory
from planner.memory.footprint import Footprint, footprint, worst_batch
from planner.memory.host import HostMemory, checkpoint_bytes, host_memory, result_bytes
from planner.memory.model_states import least_states_bytes
from planner.plan.training_section import KEPT_CHECKPOINTS
from planner.plan.vocabulary import PHASES, Method, Part, Phase
from planner.search.expected_memory import ExpectedMemory, expected_memory
from planner.speed.card_rates import NOMINAL, rates, speed_data
from planner.speed.step_time import step_time
from planner.speed.throughput import Throughput, throughput
from planner.workload.dtypes import numerics_of
from planner.workload.layout import Layout
from planner.workload.measured_ratios import TESTED, deepspeed_margin
from planner.workload.workload import Batch, Workload


class Candidate(Struct, frozen=True, kw_only=True, dict=True):
    """A workload in a layout on a cluster, with what it costs."""

    workload: Workload
    layout: Layout
    cluster: Cluster
    departures: tuple[str, ...] = ()
    """What differs from the recipe's workload, such as ``standard loss``."""

    @property
    def method(self) -> Method:
        """Name of the method: QLoRA, LoRA or full fine-tuning."""
        return self.workload.method

    @cached_property
    def footprint(self) -> Footprint:
        """Bytes of tensors on one device, by phase and part."""
        return footprint(
            self.workload,
            self.layout,
            self.cluster.device,
            compute_capability=self.cluster.accelerator.compute_capability,
        )

    @property
    def worst_batch(self) -> Batch:
        """Largest micro-batch on one device."""
        return worst_batch(
            self.workload,
            self.layout,
            self.cluster.device,
            compute_capability=self.cluster.accelerator.compute_capability,
        )

    @cached_property
    def floor_bytes(self) -> int:
        """Device memory at the high end of the range if it held the model's states alone: a lower
        bound for every layout of the strategy."""
        nothing: dict[Phase, dict[Part, int]] = {phase: {} for phase in PHASES}
        states = least_states_bytes(self.workload, self.layout, self.cluster.device)
        alone = Footprint(phases={**nothing, "optimizer_step": {"weights": states}})
        return self._device_memory(alone).high_bytes

    @cached_property
    def memory(self) -> DeviceMemory:
        """The range of what the run needs of one device, the host's memory included where it is the
        same."""
        unified = self.cluster.accelerator.unified_memory
        beside = self.host.beside(self.footprint) if unified else 0
        return self._device_memory(self.footprint, host_bytes=beside)

    def _device_memory(self, peaks: Footprint, *, host_bytes: int = 0) -> DeviceMemory:
        return device_memory(
            peaks,
            self.cluster,
            self.method,
            host_bytes=host_bytes,
            communicators=self.layout.num_communicators,
        )

    @cached_property
    def expected(self) -> ExpectedMemory:
        """Memory of one device as its driver will show it. Takes longer than all else that a
        candidate is asked: of the chosen one alone."""
        return expected_memory(
            self.workload, self.layout, self.worst_batch, self.cluster, self.memory
        )

    @cached_property
    def step_time_s(self) -> float | None:
        """Seconds of one optimizer step; None if the card's rates are unknown."""
        return None if rates(self.cluster) is None else self._usual_s

    @cached_property
    def throughput(self) -> Throughput | None:
        """Speed with its range and bottleneck; None if the card's rates are unknown."""
        return throughput(self.workload, self.layout, self.cluster)

    @cached_property
    def ranking_time_s(self) -> float:
        """Seconds of one optimizer step for ranking, over the slowest links that such a machine may
        have, and on a nominal card where the real one is unknown.

        Candidates of one request share most of the model's error; what differs is what they send.
        A layout that sends more leads by least over the slowest links, so that a lead there holds
        over all.
        """
        return _to_nanoseconds(self._seconds(slowest_links=True))

    @cached_property
    def usual_time_s(self) -> float:
        """Seconds of one optimizer step over the links of the datasheet, on a nominal card where
        the real one is unknown."""
        return _to_nanoseconds(self._usual_s)

    @cached_property
    def _usual_s(self) -> float:
        return self._seconds(slowest_links=False)

    def _seconds(self, *, slowest_links: bool) -> float:
        speed = rates(self.cluster) or NOMINAL
        found = step_time(
            self.workload, self.layout, self.cluster, speed, slowest_links=slowest_links
        )
        return found.total_s

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over all ranks, padding included."""
        return self.layout.global_batch_size * self.workload.settings.sequence_length

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second over all ranks; None if the card's rates are unknown."""
        return self.tokens_per_step / self.step_time_s if self.step_time_s else None

    @cached_property
    def standing(self) -> tuple[int, ...]:
        """Sort key: faster first, then fewer moving parts. Times are compared on a logarithmic
        scale whose steps the speed model can resolve."""
        return self.standing_at(self.ranking_time_s)

    def standing_at(self, time_s: float) -> tuple[int, ...]:
        """Return the standing that this candidate would have with a step time of ``time_s``.

        Each departure from the recipe counts as one step slower, so that the recipe is left only
        for a difference that the model can resolve. Where states are sharded the step counts as
        longer by what published runs of DeepSpeed vary beyond others, so that a layout that shards
        nothing is left only for a lead that survives that.
        A strategy whose speed no published run tests comes behind all others.
        """
        departures = len(self.departures)
        if self.layout.is_sharded:
            time_s *= deepspeed_margin()
        step = int(log(time_s) // log1p(speed_data().told_apart.share))
        untested = self.layout.strategy not in TESTED
        return untested, step + departures, *self.layout.moving_parts, departures

    @property
    def rank(self) -> tuple[float, ...]:
        """Sort key: standing, then less memory, then the smaller micro-batch, then time."""
        return (
            *self.standing,
            self.memory.peak_allocated_bytes,
            self.layout.micro_batch_size,
            self.ranking_time_s,
        )

    @cached_property
    def host(self) -> HostMemory:
        """Host memory that the run needs."""
        return host_memory(
            self.workload,
            self.layout,
            self.cluster,
            peak_allocated_bytes=self.footprint.peak_allocated_bytes,
        )

    @property
    def result_bytes(self) -> int:
        """Bytes on disk of the trained adapter or model."""
        return result_bytes(self.workload, self.layout, numerics_of(self.workload, self.layout))

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes on disk of one checkpoint."""
        return checkpoint_bytes(self.workload, self.layout, self.cluster.device)

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk of the result and of one checkpoint more than a plan keeps, which exists
        while it is written."""
        return self.result_bytes + (KEPT_CHECKPOINTS + 1) * self.checkpoint_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Return whether the device has room within ``budget_bytes``, and the host, if its memory
        is known, for what is offloaded."""
        if self.memory.high_bytes > budget_bytes:
            return False
        host = self.cluster.host_ram_bytes
        if self.cluster.accelerator.unified_memory:
            return True  # the host's share is in what the device needs
        offloads = self.layout.offload != "none" or self.workload.settings.activation_offloading
        return not offloads or host is None or self.host.node_bytes <= host


def _to_nanoseconds(seconds: float) -> float:
    """Return seconds rounded to a nanosecond, so that the same terms summed in another order are
    equal."""
    return round(seconds, 9)
