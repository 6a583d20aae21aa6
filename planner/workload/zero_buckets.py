"""DeepSpeed's sizes that a plan chooses: they bound its buffers."""

from planner.plan.schema import ZeroSection
from planner.workload.layout import Layout
from planner.workload.workload import Workload

ZERO3_SUB_GROUP_SIZE = 10**8
"""Ours: ZeRO-3 updates this many of a rank's parameters at once, so that the fp32 gradients
of a step stay small; DeepSpeed's own default is ten times as many."""


def zero_section(workload: Workload, layout: Layout) -> ZeroSection | None:
    model = workload.model
    return zero_sizes(model.hidden_size, model.largest_layer_params) if layout.zero_stage else None


def zero_sizes(hidden_size: int, layer_params: int) -> ZeroSection:
    """DeepSpeed's buckets for a model: small beside its layers, large enough to be efficient.

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
