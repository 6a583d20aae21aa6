"""Enumerate, price, keep what fits, rank. Each step is one function."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from planner.gpu import Cluster
from planner.host import HostMemory, disk_bytes, host_memory
from planner.memory import Footprint, footprint
from planner.numerics import numerics
from planner.overheads import DeviceMemory, device_memory
from planner.plan import Method
from planner.recipe import Workload
from planner.rules import Combination, broken_rule
from planner.step_time import NOMINAL, rates, step_time
from planner.strategy import Layout

OVER_BUDGET = "over the memory budget"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A workload laid out on a cluster, with what it costs."""

    workload: Workload
    layout: Layout
    cluster: Cluster

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

    @cached_property
    def memory(self) -> DeviceMemory:
        return device_memory(self.footprint, self.cluster, self.method)

    @cached_property
    def step_time_s(self) -> float | None:
        """Seconds of one optimizer step, or nothing where the card's rates are unknown, or the
        host's that updates what is offloaded."""
        speed = rates(self.cluster)
        if speed is None or self.layout.offload != "none":
            return None
        return step_time(self.workload, self.layout, self.cluster, speed).total_s

    @cached_property
    def ranking_time_s(self) -> float:
        """As above, on a nominal card where the real one is unknown."""
        speed = rates(self.cluster) or NOMINAL
        return step_time(self.workload, self.layout, self.cluster, speed).total_s

    @property
    def tokens_per_step(self) -> int:
        return self.layout.global_batch_size * self.workload.recipe.sequence_length

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens_per_step / self.step_time_s if self.step_time_s else None

    @property
    def rank(self) -> tuple[float, int, int]:
        """Faster first; among equals the leaner, then the one with fewer moving parts."""
        return (
            round(self.ranking_time_s, 9),
            self.memory.peak_allocated_bytes,
            self.layout.zero_stage,
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
    def disk_bytes(self) -> int:
        """Of what is saved at the end."""
        stage, work = self.layout.zero_stage, self.workload
        return disk_bytes(
            work, numerics(method=work.method, compute=work.compute, zero_stage=stage)
        )

    def fits(self, budget_bytes: int) -> bool:
        """On the device; and on the host, where that was read and must hold what is offloaded."""
        if self.memory.high_bytes > budget_bytes:
            return False
        host = self.cluster.host_ram_bytes
        return self.layout.offload == "none" or host is None or self.host.node_bytes <= host


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Every candidate of one method, fitting ones ranked, and why the rest was left out."""

    fitting: list[Candidate]
    too_large: list[Candidate]
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def best(self) -> Candidate | None:
        return self.fitting[0] if self.fitting else None

    @property
    def leanest(self) -> Candidate | None:
        """The smallest peak of all, fitting or not."""
        every = [*self.fitting, *self.too_large]
        return min(every, key=lambda c: c.memory.high_bytes, default=None)


def candidates(
    workload: Workload, cluster: Cluster, allowed: Iterable[Layout], *, strategy_pinned: bool
) -> tuple[list[Candidate], Counter[str]]:
    """Every allowed layout that no rule forbids, and the count of those that one does."""
    kept: list[Candidate] = []
    rejected: Counter[str] = Counter()
    for layout in allowed:
        combination = Combination(
            method=workload.method,
            strategy=layout.strategy,
            offload=layout.offload,
            optimizer=workload.recipe.optimizer.name,
            device=cluster.device,
            model_type=workload.model.model_type,
            packing=workload.recipe.packing,
        )
        rule = broken_rule(combination, pinned=strategy_pinned)
        if rule is None:
            kept.append(Candidate(workload=workload, layout=layout, cluster=cluster))
        else:
            rejected[rule.reason] += 1
    return kept, rejected


def _split(
    every: list[Candidate], budget_bytes: int
) -> tuple[list[Candidate], list[Candidate], int]:
    """What fits, what does not, and how many were not priced: memory only grows with the
    micro-batch, so nothing beyond the first that is too large can fit. One micro-batch a step is
    apart, since no gradients wait for it."""
    fitting: list[Candidate] = []
    too_large: dict[tuple[str, int, bool], Candidate] = {}
    hopeless = 0
    for candidate in sorted(every, key=lambda c: c.layout.micro_batch_size):
        layout = candidate.layout
        accumulates = layout.gradient_accumulation_steps > 1
        key = (layout.strategy, layout.checkpointing, accumulates)
        if key in too_large:
            hopeless += 1
        elif candidate.fits(budget_bytes):
            fitting.append(candidate)
        else:
            too_large[key] = candidate
    return fitting, list(too_large.values()), hopeless


def _worthwhile(partial: list[Candidate], fitting: list[Candidate]) -> list[Candidate]:
    """Of those that recompute some layers, the ones that are faster than what fits with all or
    none recomputed: they lie between, and so cannot fit where recomputing all does not."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(fitting, key=lambda c: c.ranking_time_s):
        best.setdefault(candidate.layout.strategy, candidate)
    recomputing = [c.layout for c in fitting if c.layout.activation_checkpointing]
    fits = {(layout.strategy, layout.micro_batch_size) for layout in recomputing}
    return [
        candidate
        for candidate in partial
        if (candidate.layout.strategy, candidate.layout.micro_batch_size) in fits
        and candidate.ranking_time_s < best[candidate.layout.strategy].ranking_time_s
    ]


def search(
    workload: Workload,
    cluster: Cluster,
    allowed: Iterable[Layout],
    *,
    budget_bytes: int,
    strategy_pinned: bool,
) -> SearchResult:
    """The fastest that fit first."""
    kept, rejected = candidates(workload, cluster, allowed, strategy_pinned=strategy_pinned)
    partial = [c for c in kept if c.layout.checkpoint_every > 1]
    whole = [c for c in kept if c.layout.checkpoint_every == 1]
    fitting, too_large, hopeless = _split(whole or partial, budget_bytes)
    if whole:
        more, larger, hopeless_too = _split(_worthwhile(partial, fitting), budget_bytes)
        fitting, too_large, hopeless = fitting + more, too_large + larger, hopeless + hopeless_too
    fitting.sort(key=lambda c: c.rank)
    if too_large:
        rejected[OVER_BUDGET] += len(too_large) + hopeless
    return SearchResult(fitting=fitting, too_large=too_large, rejected=rejected)
