"""DistributedDataParallel's buckets: flat copies of all gradients, on every rank all the time.

read: torch/csrc/distributed/c10d/reducer.cpp at 2.13, compute_bucket_assignment_by_size and
initialize_buckets; torch/nn/parallel/distributed.py for the limits. The first step has one
bucket of everything; from the second on they are filled in the order in which gradients
come. accelerate leaves gradient_as_bucket_view off, so that gradients are there beside them.
"""

from collections.abc import Iterable

from planner.base.units import MIB, block
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.trained_tensors import trained_tensors
from planner.workload.workload import Workload

FIRST_BUCKET_BYTES = MIB
"""Limit of the first bucket."""
BUCKET_BYTES = 25 * MIB
"""Limit of all other buckets."""


def bucket_sizes(gradients_bytes: Iterable[int]) -> list[int]:
    """Return the bytes of each bucket; the gradient that reaches the limit closes it.

    >>> bucket_sizes([2**20, 5, 26 * 2**20, 7])
    [1048576, 27262981, 7]
    """
    sizes: list[int] = []
    filling = 0
    for num_bytes in gradients_bytes:
        filling += num_bytes
        if filling >= (BUCKET_BYTES if sizes else FIRST_BUCKET_BYTES):
            sizes.append(filling)
            filling = 0
    return [*sizes, filling] if filling else sizes


def ddp_buckets(workload: Workload, width: int) -> list[int]:
    """Return the bytes of each bucket for gradients of ``width`` bytes per element."""
    backwards = reversed(trained_tensors(workload))
    return bucket_sizes(tensor.elements * width for tensor in backwards)


@cached_by_settings(*TRAINED)
def ddp_bytes(workload: Workload, width: int) -> int:
    """Return the bytes of all buckets, each a block of the allocator."""
    return sum(block(size) for size in ddp_buckets(workload, width))
