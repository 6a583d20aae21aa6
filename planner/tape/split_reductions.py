"""Buffers of CUDA reductions whose input is split between blocks: sums over the rows of a matrix.

read: aten/src/ATen/native/cuda/Reduce.cuh at 2.13, setReduceConfig and ReduceConfig's
global_memory_size: threads side by side sum neighbouring columns, four where those divide by four.
A thread that would sum 256 rows or more shares them with threads of other blocks, which meet in
a buffer of as many numbers as all columns would take in every lane of every block, and there is a
counter for each group of columns.
"""

from planner.base.units import FP32_BYTES, ceil_div

THREADS = 512
"""Most threads of a block, over all columns that one of them sums; read: max_reduce_threads."""
WARP = 32
VECTOR = 4
"""Most columns that a thread sums at once; read: get_output_vec_size."""
FEW_ROWS, MANY_ROWS = 16, 256
"""Rows that a thread sums; read: min_values_per_thread and max_values_per_thread."""
RESIDENT_THREADS = 148 * 2048
"""Threads that the largest card runs at once: a B200's 148 multiprocessors with 2,048 each. A
smaller card splits less, by so much that a buffer of 160 MB there may be one of 20 MB."""


def split_buffers(*, rows: int, columns: int) -> tuple[int, int]:
    """Return the bytes of the buffer and of its counters for a sum over the rows, which is taken in
    fp32; at most, as on the largest card; zeros where nothing is split.

    >>> split_buffers(rows=2048, columns=4864)
    (79691776, 152)
    """
    vector = next(n for n in (VECTOR, 2, 1) if columns % n == 0)
    most = THREADS // vector
    width = min(_power(columns // vector, most), WARP)
    height = min(_power(rows, most), most // width)
    width = min(_power(columns // vector, most), most // height)
    groups = ceil_div(columns // vector, width)
    blocks = RESIDENT_THREADS // (width * height)
    values = ceil_div(rows, height)
    if values < MANY_ROWS or groups > blocks:
        return 0, 0
    split = max(
        min(ceil_div(blocks, groups), ceil_div(values, FEW_ROWS)), ceil_div(values, MANY_ROWS)
    )
    if split == 1:
        return 0, 0
    return FP32_BYTES * columns * split * width * vector, FP32_BYTES * groups


def _power(number: int, most: int) -> int:
    """Return the largest power of two that is no larger than either; read: last_pow2."""
    return min(most, 1 << (number.bit_length() - 1))
