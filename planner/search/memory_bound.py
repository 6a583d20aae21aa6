"""How much memory another loss can save in the same layout: what is too large by more with the one
is too large with the other, and no layer is run to know.

Only what is outside of the layers is run, with both. Of the stock loss in the place of the fused
one it is mostly next to nothing; but where the head trains and samples are few, the fused loss's
gradient in fp32 outweighs all logits.
"""

from itertools import accumulate

from planner.forward.model_pass import ModelPass
from planner.memory.footprint import gradient_sink, worst_batch
from planner.search.candidate import Candidate
from planner.tape.tape import GradientSink
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.settings_cache import cached_by_settings
from planner.workload.workload import Batch, Workload
from planner.workload.zero_buckets import zero_section


def most_saved_bytes(other: Workload, own: Candidate) -> int:
    """Of any moment from the last layer's forward pass to its backward pass."""
    workload, layout = own.workload, own.layout
    zero = zero_section(workload, layout)
    run = (
        worst_batch(workload, layout, own.cluster.device),
        numerics_of(workload, layout),
        gradient_sink(layout) if zero is None else "reduce",
        0 if zero is None else zero.reduce_bucket_size,
    )
    pairs = zip(_levels(other, *run), _levels(workload, *run), strict=True)
    return max(0, *(theirs - ours for ours, theirs in pairs))


@cached_by_settings("method", "adapter", "attention", "loss")
def _levels(
    workload: Workload, batch: Batch, kinds: Numerics, sink: GradientSink, bucket_size: int
) -> tuple[int, int, int]:
    """Bytes over what is there when the last layer ends: at the most in forward, at the most in
    backward until the last layer begins, and then."""
    run = ModelPass(workload, batch, kinds, layers=(), sink=sink, reduce_bucket_size=bucket_size)
    (_, begins), ends, (passed, *_) = run.tape.borders[0], run.casts_gone[-1], run.tape.passed
    levels = list(accumulate(event[0] for event in run.tape.log[begins:passed]))
    turn = ends - begins
    return max(levels[:turn]), max(levels[turn:]), levels[-1]
