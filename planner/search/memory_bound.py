"""An upper bound on the memory that another loss saves in the same layout.

What exceeds the budget by more than that with one loss exceeds it with the other, which needs no
layer to be run: only what is outside of the layers is run with both losses. The stock loss saves
next to nothing over the fused one, unless the head trains and samples are few: then the fused
loss's gradient in fp32 outweighs all logits.
"""

from itertools import accumulate

from planner.forward.model_pass import ModelPass
from planner.memory.footprint import gradient_sink, waits_above
from planner.search.candidate import Candidate
from planner.tape.attention_workspaces import as_kernels_see
from planner.tape.tape import GradientSink
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.settings_cache import OUTER_PASS, cached_by_settings
from planner.workload.workload import Batch, Workload
from planner.workload.zero_sizes import zero_section


def most_saved_bytes(variant: Workload, candidate: Candidate) -> int:
    """Return the most bytes that ``variant`` saves over the candidate's own workload at any moment:
    from the last layer's forward pass to its backward pass, and of what ZeRO-3 has gathered, at any
    other, too."""
    workload, layout = candidate.workload, candidate.layout
    zero = zero_section(workload, layout)
    run = (
        as_kernels_see(candidate.worst_batch),
        numerics_of(workload, layout),
        gradient_sink(layout) if zero is None else "reduce",
        0 if zero is None else waits_above(workload, layout, zero),
    )
    pairs = zip(_levels(variant, *run), _levels(workload, *run), strict=True)
    saved = max(0, *(of_variant - of_candidate for of_candidate, of_variant in pairs))
    if layout.zero_stage < 3 or zero is None:
        return saved
    from planner.memory.zero_phases import gathered_bytes  # others need none of it

    gathered, fewer = (
        gathered_bytes(work, layout, zero, numerics_of(work, layout)).moments
        for work in (workload, variant)
    )
    return saved + max(0, *(own - other for own, other in zip(gathered, fewer, strict=True)))


@cached_by_settings(*OUTER_PASS)
def _levels(
    workload: Workload, batch: Batch, kinds: Numerics, sink: GradientSink, bucket_size: int
) -> tuple[int, int, int]:
    """Return bytes above the end of the last layer's forward pass: the most in forward, the most in
    backward before the last layer, and when that begins."""
    run = ModelPass(workload, batch, kinds, layers=(), sink=sink, reduce_bucket_size=bucket_size)
    (_, begins), ends, (passed, *_) = run.tape.borders[0], run.casts_gone[-1], run.tape.passed
    levels = list(accumulate(event[0] for event in run.tape.log[begins:passed]))
    turn = ends - begins
    return max(levels[:turn]), max(levels[turn:]), levels[-1]
