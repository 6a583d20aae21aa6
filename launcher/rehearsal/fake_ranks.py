"""A group of ranks of which one exists: a trace of what a rank sends while it computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from launcher.compat.deepspeed import compile_no_collectives, form_sequence_groups, leave_groups
from launcher.compat.torch import join_fake_ranks
from planner.plan.schema import Plan


@contextmanager
def among_fake_ranks(plan: Plan) -> Iterator[None]:
    """Be the first of the plan's ranks inside the block, if those that share samples are to meet:
    what they send has its size and no values."""
    parallel = plan.parallel
    if parallel.data_ranks == parallel.world_size:
        yield
        return
    join_fake_ranks(parallel.world_size)
    if parallel.zero_stage:
        import deepspeed

        compile_no_collectives()
        deepspeed.init_distributed()
        form_sequence_groups(parallel.sequence_parallel_size)
    try:
        yield
    finally:
        leave_groups() if parallel.zero_stage else torch.distributed.destroy_process_group()
