"""What DistributedDataParallel allocates before the first step and between the first two.

It sends every weight from the first rank to all others, flat, two buffers at a time. Its one bucket
of all gradients gives way to those of :mod:`planner.memory.ddp_buckets` when the second step
begins.

read: torch/nn/parallel/distributed.py at 2.13, _sync_module_states and _pre_forward;
torch/csrc/distributed/c10d/comm.cpp, broadcast_coalesced, and reducer.cpp,
compute_bucket_assignment_by_size and initialize_buckets.
"""

from collections.abc import Iterator

from planner.allocator.large_requests import Request, Sizes, allocated
from planner.base.units import MIB, block
from planner.memory.ddp_buckets import ddp_buckets
from planner.workload.dtypes import Numerics
from planner.workload.parameters import parameters
from planner.workload.quantization import quantized_tensors
from planner.workload.workload import Workload

BROADCAST_BYTES = 250 * MIB
"""Bytes at which a buffer of weights is sent; read: broadcast_bucket_size."""
MOST_UNDER_WAY = 2
"""Most buffers at a time; read: max_in_flight."""
CODES = "codes"
"""Dtype of quantized weights, which are sent apart from all others."""


def ddp_set_up(workload: Workload, kinds: Numerics) -> Iterator[Request]:
    """Yield the buffers that all weights are sent in, and the first bucket."""
    sizes = broadcast_sizes(workload, kinds)
    for number, size in enumerate(sizes):
        yield ("broadcast", number - MOST_UNDER_WAY), 0
        yield ("broadcast", number), size
    for number in range(len(sizes)):
        yield ("broadcast", number), 0
    yield "first bucket", block(sum(ddp_buckets(workload, kinds.gradient)))


def ddp_second_step(workload: Workload, kinds: Numerics) -> Iterator[Request]:
    """Yield what takes the place of the first bucket."""
    yield "first bucket", 0
    yield from allocated("bucket", [block(size) for size in ddp_buckets(workload, kinds.gradient)])


def broadcast_sizes(workload: Workload, kinds: Numerics) -> Sizes:
    """Return the bytes of each buffer, in the order of the first weight in each: a buffer has
    weights of one dtype."""
    filling: dict[object, tuple[int, int]] = {}
    full: list[tuple[int, int]] = []
    for number, (dtype, num_bytes) in enumerate(_weights(workload, kinds)):
        first, size = filling.pop(dtype, (number, 0))
        if size + num_bytes >= BROADCAST_BYTES:
            full.append((first, size + num_bytes))
        else:
            filling[dtype] = first, size + num_bytes
    return [block(size) for _, size in sorted([*full, *filling.values()])]


def _weights(workload: Workload, kinds: Numerics) -> Iterator[tuple[object, int]]:
    """Yield the dtype of each weight, by its width, and its bytes."""
    quantization, whole = workload.settings.quantization, parameters(workload)
    frozen = kinds.outside if quantization is not None else kinds.frozen
    kinds_of = (None, *workload.model.layers, None, None)
    places = (whole.before, *whole.layers, whole.after, whole.beside)
    for kind, place in zip(kinds_of, places, strict=True):
        if kind is not None and quantization is not None:
            for matrix in workload.packed(kind):
                yield CODES, quantized_tensors(matrix, quantization)[0]
        for each in place:
            width = kinds.trainable if each.trains else frozen
            yield width, each.elements * width
