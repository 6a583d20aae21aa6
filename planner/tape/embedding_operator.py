"""Rows of a table, and the gradient of the table.

read: aten/src/ATen/native/cuda/Embedding.cu and EmbeddingBackwardKernel.cu at 2.13: the rows of
each token are added up. Few tokens are added in place; more are sorted, those that are equal are
cut into parts, and each part is summed before the parts are.
"""

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.tape.operators import INT64
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor

SORTED_ABOVE = 3072
"""Most tokens that are not sorted; read: embedding_dense_backward_cuda."""
ROWS_OF_A_PART = 10
"""Rows that are summed at once; read: NROWS_PER_THREAD."""


def embedding(
    tape: Tape,
    weight: Tensor,
    *,
    tokens: int,
    hidden_size: int,
    device: Device,
    ranks: int = 1,
    tied: bool = False,
) -> Tensor:
    """Return rows of a table; its gradient is as large as the table.

    Of a table that is cut over ``ranks``, each rank makes the whole table's gradient; where the
    head is ``tied`` to it, its part of that is copied, and added to the head's in a new tensor.
    read: torch/distributed/tensor/_ops at 2.13, _embedding_ops.py,
    embedding_dense_backward_strategy, and _pointwise_ops.py.
    """
    elements, width, part = weight.elements * ranks, weight.width, weight.elements
    is_sorted = device == "cuda" and tokens > SORTED_ABOVE
    copied = [part * width] * 2 if ranks > 1 and tied else []

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _order = tape.inside([tokens * INT64] * 2 if is_sorted else [], "tokens in order")
        made = tape.new(elements, width, "gradient of the embedding")
        parts = parts_bytes(tokens, elements // hidden_size, hidden_size) if is_sorted else []
        _parts = tape.inside(parts, "rows of equal tokens, summed in parts")
        del _order, _parts
        _copied = tape.inside(copied, "a rank's part of the gradient, and its sum with the head's")
        return [Tensor(part, width, made.storage, None)]

    output = tape.new(tokens * hidden_size, width, "embedding")
    return tape.record(output, (weight,), (weight,), backward)


def parts_bytes(tokens: int, rows: int, columns: int) -> list[int]:
    """Return the bytes of what the gradient of a table of so many rows allocates beside it: where
    equal tokens begin and how many there are, their parts and how many, and the sums of all parts
    in fp32.

    read: embedding_backward_cuda_kernel.

    >>> parts_bytes(8192, 151936, 896)
    [65536, 8, 65536, 65536, 8, 72088, 32295424]
    """
    most = min(tokens, rows)
    parts = tokens // ROWS_OF_A_PART + most
    return [
        *(each * INT64 for each in (tokens, 1, most, most, 1, parts)),
        parts * columns * FP32_BYTES,
    ]
