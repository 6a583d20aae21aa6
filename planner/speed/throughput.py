"""How fast a candidate trains, how certain that is, and what a run costs."""

from msgspec import Struct

from planner.hardware.cluster import Cluster
from planner.hardware.measured.own_runs import time_ratios
from planner.speed.bottleneck import Bottleneck, bottleneck_of
from planner.speed.card_rates import rates
from planner.speed.step_time import StepTime, step_time
from planner.workload.layout import Layout
from planner.workload.measured_ratios import RunRatio, narrowed, time_ratio
from planner.workload.workload import Workload

MILLION = 1_000_000
SECONDS_PER_HOUR = 3600


class Throughput(Struct, frozen=True):
    """One candidate's speed; seconds are those of an optimizer step of full samples."""

    step: StepTime
    slowest_s: float
    """Seconds of a step over the slowest links that such a machine may have."""
    ratio: RunRatio
    """Measured over predicted step times of published runs, narrowed by those on this machine."""
    published: RunRatio
    """The same without the runs on this machine."""
    own_ratios: tuple[float, ...]
    """Measured over predicted step times of runs on this machine."""
    bottleneck: Bottleneck
    tokens_per_step: int
    ranks: int
    peak_flops_per_s: float
    watts_per_gpu: int | None
    """Power limit that was read, else the card's; None if neither is known."""

    @property
    def low_s(self) -> float:
        """Seconds of a step at the low end of the range."""
        return self.step.total_s * min(self.ratio.low, 1.0)

    @property
    def high_s(self) -> float:
        """Seconds of a step at the high end of the range, over the slowest links."""
        return self.slowest_s * max(self.ratio.high, 1.0)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over all ranks, padding included."""
        return self.tokens_per_step / self.step.total_s

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """Tokens per second of one rank."""
        return self.tokens_per_second / self.ranks

    @property
    def mfu(self) -> float:
        """Share of the dense 16-bit rate that the mathematics uses (arXiv:2204.02311,
        appendix B)."""
        return self.step.model_flops / self.step.total_s / self.peak_flops_per_s

    @property
    def hfu(self) -> float:
        """Share of the dense 16-bit rate that the device executes, recomputation included."""
        return self.step.hardware_flops / self.step.total_s / self.peak_flops_per_s

    def cost(self, tokens: int, price_per_gpu_hour: float | None) -> "RunCost":
        """Return what training on so many tokens costs, padding included."""
        return run_cost(
            tokens / self.tokens_per_second,
            ranks=self.ranks,
            watts_per_gpu=self.watts_per_gpu,
            price_per_gpu_hour=price_per_gpu_hour,
        )


class RunCost(Struct, frozen=True):
    """Time, energy and price of a run."""

    seconds: float
    kilowatt_hours: float | None
    """Energy at the cards' power limit: an upper bound for them, without their host."""
    price: float | None
    """Price in the currency of the hourly price."""


def run_cost(
    seconds: float, *, ranks: int, watts_per_gpu: int | None, price_per_gpu_hour: float | None
) -> RunCost:
    """Return what so many seconds cost on ``ranks`` GPUs.

    >>> run_cost(7200, ranks=8, watts_per_gpu=700, price_per_gpu_hour=2.5)
    RunCost(seconds=7200, kilowatt_hours=11.2, price=40.0)
    """
    hours = seconds / SECONDS_PER_HOUR * ranks
    return RunCost(
        seconds=seconds,
        kilowatt_hours=None if watts_per_gpu is None else hours * watts_per_gpu / 1000,
        price=None if price_per_gpu_hour is None else hours * price_per_gpu_hour,
    )


def throughput(workload: Workload, layout: Layout, cluster: Cluster) -> Throughput | None:
    """Return the candidate's speed; None if the card's rates are unknown."""
    speed = rates(cluster)
    if speed is None:
        return None
    step, card = step_time(workload, layout, cluster, speed), cluster.accelerator
    slowest = step_time(workload, layout, cluster, speed, slowest_links=True)
    listed = None if card.speed is None else card.speed.tdp_watts
    published = time_ratio(workload.method, layout.strategy, cluster.device)
    own = time_ratios(cluster, method=workload.method, sharded=layout.is_sharded)
    return Throughput(
        step=step,
        slowest_s=slowest.total_s,
        ratio=narrowed(published, own),
        published=published,
        own_ratios=own,
        bottleneck=bottleneck_of(step, workload, layout),
        tokens_per_step=layout.global_batch_size * workload.settings.sequence_length,
        ranks=layout.world_size,
        peak_flops_per_s=speed.flops_per_s,
        watts_per_gpu=card.power_limit_watts or listed,
    )
