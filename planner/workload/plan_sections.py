"""Sections of a plan that follow from a workload and its layout alone."""

from planner.plan.schema import BatchSection, ParallelSection, PrecisionSection
from planner.plan.vocabulary import Attention, Precision
from planner.workload.dtypes import BYTES, numerics_of
from planner.workload.layout import Layout
from planner.workload.workload import Workload
from planner.workload.zero_sizes import zero_section


def batch_section(workload: Workload, layout: Layout) -> BatchSection:
    """Return the plan's section on batches."""
    return BatchSection(
        micro_batch_size=layout.micro_batch_size,
        gradient_accumulation_steps=layout.gradient_accumulation_steps,
        global_batch_size=layout.global_batch_size,
        sequence_length=workload.settings.sequence_length,
        packing=workload.packing,
    )


def attention_of(workload: Workload) -> Attention:
    """Return the workload's attention, which presets/rules.yaml limits to what a plan may name."""
    attention = workload.attention
    assert attention == "sdpa" or attention == "eager"
    return attention


def precision_section(workload: Workload, layout: Layout) -> PrecisionSection:
    """Return the plan's section on precisions."""
    compute = workload.compute
    kinds = numerics_of(workload, layout)
    return PrecisionSection(
        compute=compute,
        frozen=_precision(kinds.frozen, compute),
        trainable=_precision(kinds.trainable, compute),
        master=_precision(kinds.master, compute) if kinds.master else None,
    )


def _precision(width: int, compute: Precision) -> Precision:
    """Return the precision of so many bytes per element, of the two that a plan has."""
    return compute if width == BYTES[compute] else "fp32"


def parallel_section(workload: Workload, layout: Layout, *, num_nodes: int = 1) -> ParallelSection:
    """Return the plan's section on the strategy; ranks are shared equally among the nodes."""
    return ParallelSection(
        strategy=layout.strategy,
        zero_stage=layout.zero_stage,
        offload=layout.offload,
        num_nodes=num_nodes,
        gpus_per_node=layout.world_size // num_nodes,
        world_size=layout.world_size,
        copies=layout.copies,
        sequence_parallel_size=layout.sequence_ranks,
        zero=zero_section(workload, layout),
    )
