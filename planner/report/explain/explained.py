"""A candidate with all that its formulas are built from."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from planner.hardware.cluster import Device
from planner.memory.buffers import Buffer
from planner.memory.footprint import Moments, moments
from planner.memory.host import flat_parts
from planner.memory.zero_1_2 import FlatStates, flat_states, flat_tensor
from planner.memory.zero_3 import SlicedStates, sliced_states
from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import Phase, Precision
from planner.report.explain.ledger import Ledger, ledgers
from planner.report.explain.state_terms import trained_elements
from planner.report.explain.terms import Expression
from planner.search.candidate import Candidate
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.fsdp_units import shard_tensors
from planner.workload.layout import Layout
from planner.workload.trained_tensors import TrainedTensor, counted_tensors
from planner.workload.workload import Workload
from planner.workload.zero_sizes import zero_section


@dataclass(frozen=True)
class Explained:
    """A candidate, its moments buffer by buffer, and what its numbers are made of."""

    candidate: Candidate

    @cached_property
    def workload(self) -> Workload:
        """The workload of one rank."""
        return self.candidate.workload.of_a_rank(self.candidate.layout)

    @property
    def layout(self) -> Layout:
        return self.candidate.layout

    @property
    def device(self) -> Device:
        return self.candidate.cluster.device

    @property
    def compute_capability(self) -> str | None:
        return self.candidate.cluster.accelerator.compute_capability

    @cached_property
    def kinds(self) -> Numerics:
        return numerics_of(self.workload, self.layout)

    @cached_property
    def optimizer(self) -> OptimizerSpec:
        return optimizers()[self.workload.settings.optimizer.name]

    @cached_property
    def tensors(self) -> Mapping[TrainedTensor, int]:
        """The trained tensors, with their number by shape."""
        return counted_tensors(self.workload)

    @cached_property
    def trained(self) -> Expression:
        """Number of parameters that train."""
        return trained_elements(self.workload)

    @cached_property
    def zero(self) -> ZeroSection:
        """DeepSpeed's sizes; raises where it does not run."""
        zero = zero_section(self.workload, self.layout)
        assert zero is not None
        return zero

    @cached_property
    def flat(self) -> FlatStates:
        """What ZeRO-1 and ZeRO-2 cut in flat parts."""
        return flat_states(
            self.workload,
            self.layout.world_size,
            self.zero,
            self.kinds,
            offloaded=self.layout.offload != "none",
            device=self.device,
        )

    @cached_property
    def sliced(self) -> SlicedStates:
        """What ZeRO-3 cuts in slices of parameters."""
        return sliced_states(
            self.workload,
            self.layout.world_size,
            self.zero,
            self.kinds,
            offload=self.layout.offload,
            device=self.device,
        )

    @cached_property
    def handed(self) -> Mapping[TrainedTensor, int]:
        """The tensors that the optimizer is handed: under DeepSpeed flat ones, under FSDP
        shards."""
        if self.layout.strategy == "fsdp":
            return Counter(shard_tensors(self.workload, self.layout.shard_ranks))
        if not self.layout.zero_stage:
            return self.tensors
        return Counter(map(flat_tensor, flat_parts(self.workload, self.layout)))

    @property
    def updated_in(self) -> Precision:
        """The precision of what the optimizer updates."""
        return self.workload.compute if self.workload.pure else "fp32"

    @cached_property
    def moments(self) -> Moments:
        return moments(
            self.candidate.workload,
            self.layout,
            self.device,
            compute_capability=self.compute_capability,
        )

    @cached_property
    def ledgers(self) -> Mapping[Phase, Ledger]:
        """The tensors of a micro-batch, by phase."""
        return ledgers(self.candidate, self.moments)

    def buffers(self, phase: Phase) -> Iterator[Buffer]:
        """Yield what a phase holds."""
        for buffer, num_bytes in self.moments[phase].buffers.items():
            if num_bytes:
                yield buffer
