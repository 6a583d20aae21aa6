"""What fused attention and its gradients allocate inside, by kernel and card.

read: aten/src/ATen/native/transformers/cuda at 2.13: flash_attn/flash_api.cpp, mha_fwd and mha_bwd;
attention_backward.cu, _efficient_attention_backward; mem_eff_attention/kernel_backward.h,
workspace_size, and kernels/cutlassB.h, which lists the kernels that a card is offered.
"""

from msgspec import Struct, structs

from planner.base.units import FP32_BYTES, ceil_div, round_up
from planner.tape.tape import Tape
from planner.workload.workload import Batch

FLASH_ROWS = 128
"""Rows that sequence lengths are rounded up to by flash attention."""
FLASH_HEAD = 32
"""Elements that head sizes are rounded up to by flash attention."""
SPLIT_QUERIES = 64
"""Queries of a block where keys are split."""
SPLIT_KEYS = ((64, 256), (128, 128), (256, 64))
"""Largest head size and keys of a block."""
BLOCKS_OF_A_MULTIPROCESSOR = 2
MOST_SPLITS = 128
FULL_SHARE, ENOUGH_SHARE = 0.8, 0.85
"""Share of a card that is full enough to split nothing, and share of the best that is enough."""
LARGEST_HEAD = 256
"""Largest head size of flash attention."""
FIRST_WITH_FLASH = 8.0
"""Compute capability from which on there is flash attention, and bf16 in other kernels."""
LITTLE_SHARED_MEMORY = ("8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that have flash attention and 100 KiB of shared memory for a block, which
is too little for the largest blocks of queries and keys."""
TILE_HEAD_BYTES = 16
"""Bytes of a lock, a counter and their padding before each tile; read: GradQTempStorage."""


class HeadShape(Struct, frozen=True):
    """Queries, keys and values of one micro-batch as attention sees them."""

    batch: int
    length: int
    heads: int
    key_value_heads: int
    head_dim: int
    value_dim: int | None = None
    """Width of one head's values where it differs, as in latent attention; queries and keys then
    lie head by head already."""

    @property
    def values(self) -> int:
        """Width of one head's values."""
        return self.value_dim or self.head_dim

    @property
    def output_elements(self) -> int:
        """Elements of the output."""
        return self.query_rows * self.values

    @property
    def query_rows(self) -> int:
        """Rows of queries over all heads and samples."""
        return self.batch * self.heads * self.length


class Blocks(Struct, frozen=True):
    """Queries and keys that one block of the memory-efficient gradient takes at a time."""

    queries: int
    keys: int
    in_registers: bool = True
    """Whether the gradients of keys and values stay in registers until they are whole."""


def is_older(capability: str | None) -> bool:
    """Return whether a card has no flash attention; None is one that has it."""
    return capability is not None and float(capability) < FIRST_WITH_FLASH


def as_kernels_see(batch: Batch) -> Batch:
    """Return the batch as every card has it on which a pass is the same."""
    capability = batch.compute_capability
    if is_older(capability):
        return batch
    same = capability if capability in LITTLE_SHARED_MEMORY else None
    return structs.replace(batch, compute_capability=same)


def flash_workspace(tape: Tape, shape: HeadShape, width: int) -> None:
    """Allocate and free what flash attention's gradient works in: row sums, the query's gradient in
    fp32, and those of keys and values for every query head of a group before they are summed."""
    rows = shape.batch * shape.heads * round_up(shape.length, FLASH_ROWS)
    query_bytes = rows * round_up(shape.head_dim, FLASH_HEAD)
    inside = [
        tape.new(rows, FP32_BYTES, "row sums"),
        tape.new(query_bytes, FP32_BYTES, "gradient of the query in fp32"),
    ]
    if shape.heads != shape.key_value_heads:
        expanded = shape.query_rows * shape.head_dim
        inside += [tape.new(expanded, width, "gradient of expanded heads") for _ in range(2)]


def flash_splits(shape: HeadShape, multiprocessors: int) -> int:
    """Return into how many parts flash attention splits the keys, so that few heads of few queries
    fill the card: the fewest of which the last round of blocks is nearly as full as with the best.

    read: flash_api.cpp, set_params_splitkv and num_splits_heuristic.

    >>> flash_splits(HeadShape(1, 2048, 4, 1, 256), 82)
    5
    """
    blocks = shape.batch * shape.heads * ceil_div(shape.length, SPLIT_QUERIES)
    at_once = BLOCKS_OF_A_MULTIPROCESSOR * multiprocessors
    if blocks >= FULL_SHARE * at_once:
        return 1
    keys = next(keys for most, keys in SPLIT_KEYS if shape.head_dim <= most)
    parts = ceil_div(shape.length, keys)
    filled: dict[int, float] = {}
    for splits in range(1, min(MOST_SPLITS, at_once, parts) + 1):
        if splits == 1 or ceil_div(parts, splits) != ceil_div(parts, splits - 1):
            filled[splits] = blocks * splits / at_once / ceil_div(blocks * splits, at_once)
    enough = ENOUGH_SHARE * max(filled.values())
    return next(splits for splits, share in filled.items() if share >= enough)


def flash_accumulators(tape: Tape, shape: HeadShape, multiprocessors: int | None) -> None:
    """Allocate and free what the parts' outputs are summed from, in fp32."""
    if multiprocessors is None or shape.head_dim > LARGEST_HEAD:
        return
    splits = flash_splits(shape, multiprocessors)
    if splits > 1:
        rows = splits * shape.query_rows
        _statistics = tape.new(rows, FP32_BYTES, "log-sum-exp of the parts")
        width = round_up(shape.head_dim, FLASH_HEAD)
        _outputs = tape.new(rows * width, FP32_BYTES, "outputs of the parts")


def memory_efficient_workspace(
    tape: Tape, shape: HeadShape, width: int, capability: str | None
) -> None:
    """Allocate and free what the memory-efficient gradient works in: row sums, for which fp32
    multiplies the output and its gradient first, and tiles of gradients that blocks add to."""
    if width == FP32_BYTES:
        product = tape.new(shape.output_elements, FP32_BYTES, "output x gradient")
        sums = tape.new(shape.query_rows, FP32_BYTES, "row sums")
        _row_sums = tape.new(shape.query_rows, FP32_BYTES, "row sums, made contiguous")
        del product, sums
    else:
        _row_sums = tape.new(shape.query_rows, FP32_BYTES, "row sums")
    rows = shape.batch * shape.heads
    tiles = tile_bytes(shape, memory_efficient_blocks(shape, width, capability))
    _tiles = tape.new(rows * tiles, 1, "gradients in tiles of fp32")


def tile_bytes(shape: HeadShape, blocks: Blocks) -> int:
    """Return the bytes of one head's tiles: its query's gradient, and those of its keys and values
    where they do not stay in registers."""
    columns = ceil_div(shape.head_dim, blocks.keys)
    tile = blocks.queries * blocks.keys * FP32_BYTES + TILE_HEAD_BYTES
    total = ceil_div(shape.length, blocks.queries) * columns * tile
    if not blocks.in_registers:
        keys = round_up(shape.length, blocks.keys) * FP32_BYTES
        widths = (shape.head_dim, shape.values)
        total += sum(keys * round_up(width, blocks.queries) for width in widths)
    return total


def memory_efficient_blocks(shape: HeadShape, width: int, capability: str | None) -> Blocks:
    """Return the blocks of the first kernel that takes the heads and fits into shared memory;
    counted on simulated cards (tests/simulated/test_attention.py)."""
    size = max(shape.head_dim, shape.values)
    little = is_older(capability) or capability in LITTLE_SHARED_MEMORY
    if size <= 64 or (little and width == FP32_BYTES):
        return Blocks(64, 64)
    if width == FP32_BYTES:
        return Blocks(128, 64)
    if size <= 128 and is_older(capability):
        return Blocks(128, 64)
    if size > 128:
        return Blocks(128, 64, in_registers=False)
    if not little:
        return Blocks(128, 128)
    if size <= 96 and capability in ("8.6", "8.9"):
        return Blocks(128, 64)
    return Blocks(64, 64, in_registers=False)
