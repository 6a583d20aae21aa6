"""Sizes of DeepSpeed's buffers that a plan chooses."""

from planner.plan.schema import ZeroSection
from planner.workload.layout import Layout
from planner.workload.workload import Workload

ZERO3_SUB_GROUP_SIZE = 10**8
"""Parameters of a rank that ZeRO-3 updates at once, so that a step's fp32 gradients stay small;
DeepSpeed's default is ten times as many."""


def zero_section(workload: Workload, layout: Layout) -> ZeroSection | None:
    """Return the plan's sizes of DeepSpeed's buffers; None without DeepSpeed."""
    model = workload.model
    return zero_sizes(model.hidden_size, model.largest_layer_params) if layout.zero_stage else None


def zero_sizes(hidden_size: int, layer_params: int) -> ZeroSection:
    """Return DeepSpeed's bucket sizes for a model: small beside its layers, large enough to be
    efficient.

    Hugging Face's rule for "auto" (h^2 to reduce, 0.9 h^2 to prefetch, 10 h to keep;
    transformers/integrations/deepspeed.py) and one layer beyond the running one live.
    """
    square = hidden_size * hidden_size
    return ZeroSection(
        reduce_bucket_size=max(square, 2**20),
        allgather_bucket_size=max(square, 2**20),
        prefetch_bucket_size=square * 9 // 10,
        max_live_parameters=2 * layer_params,
        param_persistence_threshold=10 * hidden_size,
        sub_group_size=ZERO3_SUB_GROUP_SIZE,
    )
