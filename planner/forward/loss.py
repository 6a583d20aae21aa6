"""The head and the loss on a tape: trl's fused head, and the stock cross-entropy.

t  tokens of a micro-batch     h  hidden_size     V  vocab_size
"""

from typing import Literal

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Device
from planner.tape import operators as ops
from planner.tape.operators import INT64
from planner.tape.tape import Tape
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


def fused_loss(
    tape: Tape,
    hidden: Tensor,
    head: Parameter,
    bias: Parameter | None = None,
    *,
    batch: Batch,
    numerics: Numerics,
) -> Tensor:
    """Mirror trl's add_fused_lm_head, _fused_forward: every position but the last of each
    sample."""
    h = hidden.elements // batch.tokens
    scored = batch.tokens - batch.micro_batch_size
    hidden = ops.slice_of(tape, hidden, scored * h)
    if batch.device == "cuda":
        selected = _selected(tape, hidden, scored)
    elif batch.micro_batch_size > 1:
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
    head: Parameter,
    bias: Parameter | None,
    *,
    tokens: int,
    numerics: Numerics,
    device: Device,
) -> Tensor:
    """Mirror ChunkedLogProbFunction: a tile of logits at a time, made again for the gradient."""
    vocab = head.elements * tokens // hidden.elements
    sizes = _TileSizes(tape, hidden, head, tokens, vocab, numerics, device)
    statistics = [
        tape.new(tokens, FP32_BYTES, "running statistics") for _ in range(FUSED_LOSS_STATISTICS)
    ]
    logits = tokens * vocab * sizes.width
    product = 2 * vocab * hidden.elements, logits + sizes.operand_bytes(tokens), sizes.width
    tape.multiplies(*product)
    tile = sizes.tile("forward")
    tape.passes_over(logits + sizes.copied_bytes("forward", tokens))
    del tile
    outputs = [tape.new(tokens, FP32_BYTES, "log-probability and entropy") for _ in range(3)]
    del statistics
    elements, width = hidden.elements, hidden.width
    parameters = [head] if bias is None else [head, bias]
    sizes_of = [(p.elements, p.width) if p.trains else None for p in parameters]

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_hidden = tape.new(elements, FP32_BYTES, "gradient of the hidden states in fp32")
        summed = [
            tape.new(size[0], FP32_BYTES, "gradient of the head in fp32") if size else None
            for size in sizes_of
        ]
        tape.multiplies(*product, again=True)
        tile = sizes.tile("backward")
        tape.passes_over(2 * logits + sizes.copied_bytes("backward", tokens))
        for _ in range(1 + head.trains):
            tape.multiplies(*product)
            tape.passes_over(0)
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


class _TileSizes:
    """Sizes of one tile: itself, casts of its operands, and copies where there is no Triton.

    A loop variable holds an operand's cast while the next one is made, so that two are alive; no
    variable holds the head's cast in forward.
    """

    def __init__(
        self,
        tape: Tape,
        hidden: Tensor,
        head: Parameter,
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

    def operand_bytes(self, tokens: int) -> int:
        """Return the bytes of the hidden states and the head, each read once."""
        return (tokens + self._vocab) * self._hidden_size * self.width

    def copied_bytes(self, direction: Direction, tokens: int) -> int:
        """Return the bytes of all tiles' copies, where there is no Triton."""
        return tokens * self._vocab * TORCH_TILE_BYTES[direction] if self._on_cpu else 0

    def tile(self, direction: Direction) -> list[Tensor]:
        """Return everything that is alive while one tile is folded."""
        new = self._tape.new
        made = [new(self._rows * FUSED_LOSS_VOCABULARY, self.width, "tile of logits")]
        for count in self._operands(direction):
            made.append(new(count * self._hidden_size, self.width, "operand of the tile, cast"))
        if self._on_cpu and TORCH_TILE_BYTES[direction]:
            copies = self._rows * self._columns * TORCH_TILE_BYTES[direction]
            made.append(new(copies, 1, "copies of the tile"))
        return made

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
