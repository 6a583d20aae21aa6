"""Seconds in which the ranks that share a sequence exchange tokens for heads.

Every attention layer sends queries, keys, values and its output through four all-to-alls in
forward, and their gradients through four in backward; a layer that is recomputed sends the first
four twice (Jacobs et al., DeepSpeed-Ulysses, arXiv:2309.14509, section 3.2; Bekman et al., Arctic
Long Sequence Training, arXiv:2506.13996, section 3.2). Attention waits for each of them, so that
nothing hides them.

read: deepspeed/runtime/sequence_parallel/ulysses_sp.py at 0.19.8, UlyssesSPAttentionHF: keys and
values of fewer heads than ranks are sent as often as each rank needs one.
"""

from planner.hardware.network import Links, Ranks
from planner.speed.flops import recomputed_share
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.workload import Workload


def exchanges_s(workload: Workload, layout: Layout, kinds: Numerics, links: Links) -> float:
    """Return seconds of the exchanges of one micro-batch, whose ranks are on one node."""
    model, shared = workload.model, Ranks(layout.sequence_ranks, 1, links)
    tokens = layout.micro_batch_size * workload.settings.sequence_length // layout.sequence_ranks
    again = recomputed_share(model.num_layers, layout.checkpointing)
    seconds = 0.0
    for kind, number in model.kinds.items():
        heads = model.heads(kind)
        copies = max(1, layout.sequence_ranks // heads.key_values)
        exchanged = (heads.queries, *[copies * heads.key_values] * 2, heads.queries)
        sizes = [tokens * each * heads.head_dim * kinds.compute for each in exchanged]
        seconds += number * (2 + again) * sum(shared.exchange_s(size) for size in sizes)
    return seconds
