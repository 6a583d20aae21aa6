"""The head and the loss on a tape: trl's fused head, and the stock cross-entropy.

t  tokens of a micro-batch     h  hidden_size     V  vocab_size
"""

from typing import Literal

from msgspec import Struct

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.tape import operators as ops
from planner.tape.operators import INT64
from planner.tape.tape import ProductKind, Tape
from planner.tape.tensors import Parameter, Tensor
from planner.workload.dtypes import Numerics
from planner.workload.workload import Batch

FUSED_LOSS_TOKENS = 4096
"""Tokens of a tile; read: trl/kernels/chunked_logprob.py at 1.16.0, TOKEN_CHUNK_SIZE."""
FUSED_LOSS_VOCABULARY = 32768
"""Vocabulary entries of a tile; read: trl/trainer/utils.py at 1.16.0,
_CHUNKED_LOGPROB_CHUNK_SIZE."""
FUSED_LOSS_STATISTICS = 7
"""Number of fp32 values per token while the tiles are folded; read: trl/kernels/chunked_logprob.py
at 1.16.0, forward."""
Direction = Literal["forward", "backward"]
TORCH_TILE_BYTES: dict[Direction, int] = {
    "forward": 3 * FP32_BYTES + 1,
    "backward": 7 * FP32_BYTES + 1,
}
"""Bytes per logit of a tile where there is no Triton, as on the CPU: fp32 copies and a mask; read:
the same file, _forward_tile and _backward_tile. The Triton kernels work inside the tile."""


class TileKernel(Struct, frozen=True):
    """One kernel of PyTorch over a tile, in bytes per logit."""

    moved: int
    """Bytes that are read and written."""
    made: int = 0
    """Bytes of the tensor that it makes; 0 where it makes none as large as the tile."""
    exponentiates: bool = False


_MASK = TileKernel(1, 1)
_SUM = TileKernel(FP32_BYTES)
_NEW = TileKernel(2 * FP32_BYTES, FP32_BYTES)
_NEW_OF_TWO = TileKernel(3 * FP32_BYTES, FP32_BYTES)
_EXPONENTIAL = TileKernel(2 * FP32_BYTES, FP32_BYTES, exponentiates=True)
TORCH_TILE_KERNELS: dict[Direction, tuple[TileKernel, ...]] = {
    "forward": (
        *(_NEW, _NEW),  # both scales
        _MASK,  # before the target
        TileKernel(2, 1),  # not before it
        TileKernel(3 * FP32_BYTES + 1, FP32_BYTES),  # masked_fill: a copy, then the fill
        *(_SUM, _SUM),  # both maxima
        *(_NEW, _EXPONENTIAL, _SUM),
        *(_NEW_OF_TWO, _SUM),  # for the entropy
    ),
    "backward": (
        *(_NEW, _NEW),  # both scales
        *(_NEW, _EXPONENTIAL),
        TileKernel(FP32_BYTES, FP32_BYTES),  # zeros
        _MASK,  # the target
        TileKernel(1 + FP32_BYTES, FP32_BYTES),
        *(_NEW_OF_TWO, _NEW),
        TileKernel(3 * FP32_BYTES),  # added to the zeros
        *(_NEW, _NEW),  # both scales
    ),
}
"""Kernels over a tile where there is no Triton, but those that cast it; read: the same two
functions, with entropy and is_top1 asked and no gradient of the entropy."""


def fused_loss(
    tape: Tape,
    hidden: Tensor,
    head: Tensor,
    bias: Parameter | None = None,
    *,
    batch: Batch,
    numerics: Numerics,
) -> Tensor:
    """Mirror trl's add_fused_lm_head, _fused_forward: every position but the last of each
    sample. Labels that are shifted before ranks share them leave no position out."""
    h = hidden.elements // batch.tokens
    scored = batch.tokens
    if batch.sequence_ranks == 1:
        scored -= batch.micro_batch_size
        hidden = ops.slice_of(tape, hidden, scored * h)
    if batch.device == "cuda":
        selected = _selected(tape, hidden, scored)
    elif batch.micro_batch_size > 1 and batch.sequence_ranks == 1:
        selected = ops.contiguous(tape, hidden, "positions that are scored")
    else:
        selected = hidden
    return _fused_log_probs(
        tape, selected, head, bias, tokens=scored, numerics=numerics, device=batch.device
    )


def _selected(tape: Tape, hidden: Tensor, tokens: int) -> Tensor:
    """Mirror ``hidden[mask]``: the indices are saved; the gradient is scattered into zeros."""
    elements, width = hidden.elements, hidden.width
    indices = tape.new(2 * tokens, INT64, "indices of the scored positions")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the selected positions")]

    output = tape.new(elements, width, "positions that are scored")
    return tape.record(output, (hidden,), (indices,), backward)


def _fused_log_probs(
    tape: Tape,
    hidden: Tensor,
    head: Tensor,
    bias: Parameter | None,
    *,
    tokens: int,
    numerics: Numerics,
    device: Device,
) -> Tensor:
    """Mirror ChunkedLogProbFunction: a tile of logits at a time, made again for the gradient."""
    vocab = head.elements * tokens // hidden.elements
    sizes = _Tiles(tape, hidden, head, tokens, vocab, numerics, device)
    statistics = [
        tape.new(tokens, FP32_BYTES, "running statistics") for _ in range(FUSED_LOSS_STATISTICS)
    ]
    product = sizes.product(tokens, sizes.width)
    tape.multiplies(*product, casts=sizes.casts)
    tile = sizes.tile("forward")
    sizes.fold("forward", tokens)
    del tile
    outputs = [tape.new(tokens, FP32_BYTES, "log-probability and entropy") for _ in range(3)]
    del statistics
    elements, width = hidden.elements, hidden.width
    parameters = [head] if bias is None else [head, bias]
    of_head = head.node is not None
    sizes_of = [(p.elements, p.width) if p.node is not None else None for p in parameters]

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_hidden = tape.new(elements, FP32_BYTES, "gradient of the hidden states in fp32")
        summed = [
            tape.new(size[0], FP32_BYTES, "gradient of the head in fp32") if size else None
            for size in sizes_of
        ]
        tape.multiplies(*product, again=True, casts=sizes.casts)
        tile = sizes.tile("backward")
        sizes.fold("backward", tokens)
        sizes.accumulate(tokens, of_head=False)
        if of_head:
            sizes.accumulate(tokens, of_head=True)
        if bias is not None and bias.trains:
            sizes.sum_rows(tile)
        made: list[Tensor | None] = [ops.as_width(tape, of_hidden, width, elements)]
        made += [
            None
            if gradient is None or size is None
            else ops.as_width(tape, gradient, size[1], size[0])
            for gradient, size in zip(summed, sizes_of, strict=True)
        ]
        del tile
        return made

    saved = (hidden, *parameters, outputs[0], outputs[1])
    result = outputs[2]
    return tape.record(result, (hidden, *parameters), saved, backward)


class _Tiles:
    """What one tile holds: itself, casts of its operands, and copies where there is no Triton; and
    the kernels over all tiles.

    A loop variable holds an operand's cast while the next one is made, so that two are alive; no
    variable holds the head's cast in forward.
    """

    def __init__(
        self,
        tape: Tape,
        hidden: Tensor,
        head: Tensor,
        tokens: int,
        vocab: int,
        numerics: Numerics,
        device: Device,
    ) -> None:
        self._tape = tape
        self._rows = min(tokens, FUSED_LOSS_TOKENS)
        self._rows_cast = self._rows
        self._several_rows = tokens > FUSED_LOSS_TOKENS
        self._next_rows = min(tokens - self._rows, FUSED_LOSS_TOKENS)
        self._columns = min(vocab, FUSED_LOSS_VOCABULARY)
        self._columns_cast = self._columns
        self._next_columns = min(vocab - self._columns, FUSED_LOSS_VOCABULARY)
        self._last_columns = (vocab - 1) % FUSED_LOSS_VOCABULARY + 1
        self.width = numerics.compute if numerics.autocast else hidden.width
        self._vocab = vocab
        self._hidden_size = head.elements // vocab
        if hidden.width == self.width:
            self._rows_cast = self._next_rows = 0
        if head.width == self.width:
            self._columns_cast = self._next_columns = self._last_columns = 0
        self._on_cpu = device == "cpu"

    @property
    def casts(self) -> int:
        """Number of operands that are cast for a tile after it is there."""
        return bool(self._rows_cast) + bool(self._columns_cast)

    def product(self, tokens: int, width: int) -> tuple[int, int, int]:
        """Return operations, bytes and the width of a product with the whole head."""
        moved = tokens * self._vocab + (tokens + self._vocab) * self._hidden_size
        return 2 * tokens * self._vocab * self._hidden_size, width * moved, width

    def fold(self, direction: Direction, tokens: int) -> None:
        """State the kernels that take the statistics of the logits, or turn them into their
        gradient in place.

        The Triton kernel does either in one pass.
        """
        if not self._on_cpu:
            passes = 1 if direction == "forward" else 2
            self._tape.passes_over(passes * tokens * self._vocab * self.width)
            return
        for columns in self._columns_of_tiles():
            logits = tokens * columns
            self._cast(logits)
            for kernel in TORCH_TILE_KERNELS[direction]:
                if kernel.exponentiates:
                    self._tape.exponentiates()
                self._tape.passes_over(kernel.moved * logits, kernel.made * logits)
            if direction == "backward":
                self._tape.passes_over((FP32_BYTES + self.width) * logits)

    def accumulate(self, tokens: int, *, of_head: bool) -> None:
        """State the product with the gradient of the logits that is the gradient of the head or of
        the hidden states: of 16-bit operands on a GPU, of fp32 copies of them on the CPU.

        read: the same file, _addmm_fp32.
        """
        if self._on_cpu:
            for columns in self._columns_of_tiles():
                self._cast(tokens * columns)
                self._cast(self._hidden_size * (tokens if of_head else columns))
        width = FP32_BYTES if self._on_cpu else self.width
        kind: ProductKind = "weight gradient" if of_head else "product"
        self._tape.multiplies(*self.product(tokens, width), kind=kind)
        self._tape.passes_over(0)

    def _columns_of_tiles(self) -> list[int]:
        starts = range(0, self._vocab, FUSED_LOSS_VOCABULARY)
        return [min(self._vocab - start, FUSED_LOSS_VOCABULARY) for start in starts]

    def _cast(self, elements: int) -> None:
        """State that so many elements are copied to fp32, if they are not fp32 already."""
        if self.width < FP32_BYTES:
            self._tape.passes_over((self.width + FP32_BYTES) * elements, FP32_BYTES * elements)

    def tile(self, direction: Direction) -> list[Tensor]:
        """Return everything that is alive while one tile is folded."""
        new = self._tape.new
        made = [new(self._rows * FUSED_LOSS_VOCABULARY, self.width, "tile of logits")]
        for count in self._operands(direction):
            made.append(new(count * self._hidden_size, self.width, "operand of the tile, cast"))
        if self._on_cpu and TORCH_TILE_BYTES[direction]:
            self._tape.fills_in_steps()
            copies = self._rows * self._columns * TORCH_TILE_BYTES[direction]
            made.append(new(copies, 1, "copies of the tile"))
        return made

    def sum_rows(self, tile: list[Tensor]) -> None:
        """Drop the operands of the next tile, and pass the buffer of the sum over the rows that is
        the gradient of the head's bias."""
        del tile[1 + bool(self._rows_cast) + bool(self._columns_cast) :]
        if not self._on_cpu:
            _inside = self._tape.sum_buffers(self._rows, self._columns)

    def _operands(self, direction: Direction) -> list[int]:
        """Return the rows of every operand's cast that is alive at once: as the next hidden states
        are cast, or as the next slice of the head is."""
        if direction == "forward":
            moments = ([self._rows_cast, self._next_rows], [self._rows_cast, self._columns_cast])
        else:
            before = self._last_columns if self._several_rows else 0
            moments = (
                [self._rows_cast, self._next_rows, before],
                [self._rows_cast, self._columns_cast, max(before, self._next_columns)],
            )
        return [count for count in max(moments, key=sum) if count]


def cross_entropy(tape: Tape, logits: Tensor, *, batch: Batch, numerics: Numerics) -> Tensor:
    """Return the stock loss.

    read: transformers/loss/loss_utils.py, ForCausalLMLoss, at 5.23; models/llama/modeling_llama.py
    at 4.38 and Qwen-1's modeling_qwen.py for shifted logits: all but the last logits of one sample
    lie in one piece and are not copied.
    """
    if numerics.cross_entropy == "labels shifted":
        return _log_loss(tape, logits)
    shifted = ops.slice_of(tape, logits, logits.elements)
    if batch.micro_batch_size > 1:
        shifted = ops.contiguous(tape, shifted, "logits but the last")
    if shifted.width == FP32_BYTES:
        return _log_loss(tape, shifted)
    return _log_loss_of_16_bit(tape, shifted, numerics)


def _log_loss(tape: Tape, logits: Tensor) -> Tensor:
    """Mirror ``cross_entropy`` in fp32: log-probabilities and, one after the other, their
    gradients."""
    logits = ops.cast(tape, logits, FP32_BYTES, "logits in fp32")
    elements = logits.elements
    tape.exponentiates()
    log_probs = tape.new(elements, FP32_BYTES, "log-probabilities")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_log_probs = tape.new(elements, FP32_BYTES, "gradient of the log-probabilities")
        tape.exponentiates()
        made = tape.new(elements, FP32_BYTES, "gradient of the logits in fp32")
        del of_log_probs
        return [made]

    return tape.record(tape.new(1, FP32_BYTES, "loss"), (logits,), (log_probs,), backward)


def _log_loss_of_16_bit(tape: Tape, logits: Tensor, numerics: Numerics) -> Tensor:
    """Mirror ``cross_entropy`` of 16-bit logits: autocast casts the log-probabilities, not the
    logits.

    read: aten/src/ATen/native/LossNLL.cpp, cross_entropy_loss, asks log_softmax for the dtype of
    its input, which autocast obeys (autocast_mode.h, fp32_set_opt_dtype); nll_loss is cast, and
    keeps its input.
    """
    log_probs = _log_softmax(tape, logits)
    if numerics.autocast:
        log_probs = ops.cast(tape, log_probs, FP32_BYTES, "log-probabilities in fp32")
    elements, width = log_probs.elements, log_probs.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the log-probabilities")]

    return tape.record(tape.new(1, FP32_BYTES, "loss"), (log_probs,), (log_probs,), backward)


def _log_softmax(tape: Tape, logits: Tensor) -> Tensor:
    elements, width = logits.elements, logits.width
    tape.exponentiates()
    output = tape.new(elements, width, "log-probabilities")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the logits")]

    return tape.record(output, (logits,), (output,), backward)
