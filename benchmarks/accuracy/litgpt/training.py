"""LitGPT's fine-tuning loop on a tape: micro-batches, the step of the optimizer, and what stays
alive.

read: litgpt/finetune/lora.py and full.py at 0.2.0; litgpt/utils.py, chunked_cross_entropy; and
lightning/fabric/wrappers.py at 2.1: a module's outputs are cast to the default dtype, so
logits become fp32. The loop's names ``logits`` and ``loss`` are bound until the next micro-
batch binds them anew, and with them the graph of the last one, whose nodes have released what
autograd saved but not what a Python function keeps on its context.
"""

from dataclasses import dataclass

from benchmarks.accuracy.litgpt.gpt import GPT
from benchmarks.accuracy.litgpt.linears import Linears
from benchmarks.accuracy.litgpt.operators import split
from benchmarks.accuracy.litgpt.shape import Shape
from benchmarks.accuracy.litgpt.weights import COMPUTE, Tuning, Weights
from planner.allocator.held_sizes import state_sizes
from planner.base.units import FP32_BYTES
from planner.memory.optimizer_step import OptimizerStep
from planner.tape import operators as ops
from planner.tape.embedding_operator import embedding
from planner.tape.operators import INT64
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor
from planner.workload.trained_tensors import TrainedTensor

CHUNK = 128
"""Number of tokens: lm_head_chunk_size in the loop, chunk_size of chunked_cross_entropy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    samples: int
    length: int

    @property
    def tokens(self) -> int:
        return self.samples * self.length


class TrainingRun:
    """A run of micro-batches of one size, in succession, on one device.

    If ``steady``, gradients of earlier micro-batches and the optimizer's moments exist; otherwise
    the first micro-batch of the run makes its gradients.
    """

    def __init__(self, shape: Shape, tuning: Tuning, batch: MicroBatch, *, steady: bool) -> None:
        self.tape = Tape(sink="add" if steady else "keep")
        self._start(shape, batch, Weights(tuning=tuning), steady=steady)

    def _start(self, shape: Shape, batch: MicroBatch, weights: Weights, *, steady: bool) -> None:
        self.weights = weights
        self._steady = steady
        self._shape = shape
        self._batch = batch
        self._linears = Linears(shape=shape, weights=weights, tape=self.tape)
        self._gpt = GPT(linears=self._linears, samples=batch.samples, length=batch.length)
        self._logits: list[Tensor] = []
        self._graph: list[Tensor] = []

    def micro_batch(self) -> None:
        """Run forward and backward; logits and graph of the previous micro-batch are freed as this
        one makes its own."""
        loss = self._loss()
        self.tape.backward(loss, self.tape.new(1, FP32_BYTES, "gradient of the loss"))

    def step(self) -> None:
        step = OptimizerStep(
            self.weights.tuning.optimizer,
            self.trained,
            width=COMPUTE,
            weight_decay=0.0,
            device="cuda",
        )
        self.tape.log.extend(step.log)

    @property
    def trainable(self) -> list[int]:
        """Elements of each weight that trains."""
        return self.weights.trainable

    @property
    def trained(self) -> list[TrainedTensor]:
        """Elements of each weight that the optimizer changes on this device."""
        return [TrainedTensor((elements,)) for elements in self.trainable]

    @property
    def states(self) -> list[int]:
        """Return the bytes of each of the optimizer's states on the device."""
        optimizer = self.weights.tuning.optimizer
        return state_sizes(optimizer, self.trained, width=COMPUTE, device="cuda")

    @property
    def resident(self) -> list[int]:
        """Return the bytes of each tensor that exists before the first micro-batch."""
        if not self._steady:
            return self.weights.sizes
        gradients = [n * COMPUTE for n in self.weights.trainable]
        return self.weights.sizes + self.states + gradients

    def _bind(self, logits: list[Tensor]) -> None:
        self._logits = [chunk.detached() for chunk in logits]
        self._graph = self._linears.contexts
        self._linears.contexts = []

    # --- forward --------------------------------------------------------------------------

    def _loss(self) -> Tensor:
        batch, tape = self._batch, self.tape
        _inputs = [tape.new(batch.tokens, INT64, name) for name in ("input_ids", "targets")]
        x = self._backbone()
        tape.loss_begins()
        if self.weights.tuning.method == "full":
            return self._loss_of_all(x)
        return self._loss_by_chunks(x)

    def _backbone(self) -> Tensor:
        shape, batch, tape = self._shape, self._batch, self.tape
        elements = batch.length * shape.rope_n_elem
        tables = (
            tape.new(elements, FP32_BYTES, "rotary cosines"),
            tape.new(elements, FP32_BYTES, "rotary sines"),
        )
        table = self.weights.parameter("wte.weight", shape.padded_vocab_size * shape.n_embd)
        x = embedding(tape, table, tokens=batch.tokens, hidden_size=shape.n_embd, device="cuda")
        if shape.scale_embeddings:
            x = ops.unary(tape, x, "embeddings, scaled")
        for number in range(shape.n_layer):
            x = self._block(number, x, tables)
        return self._gpt.norm("ln_f", x)

    def _block(self, number: int, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        return self._gpt.block(number, x, tables)

    def _head(self, x: Tensor) -> Tensor:
        sizes = (self._shape.n_embd, self._shape.padded_vocab_size)
        return self._linears.linear("head", x, sizes, bias=self._shape.lm_head_bias)

    def _loss_by_chunks(self, x: Tensor) -> Tensor:
        """``lm_head(x_i) for x_i in x.split(128, dim=1)``, and the loss per chunk."""
        tape, row = self.tape, self._batch.samples * self._shape.n_embd
        sizes = tuple(rows * row for rows in _chunks(self._batch.length))
        chunks = [self._head(part) for part in split(tape, x, sizes, "ln_f's output")]
        del x
        logits = [ops.cast(tape, chunk, FP32_BYTES, "logits in fp32") for chunk in chunks]
        del chunks
        self._bind(logits)
        return _joined(tape, [_cross_entropy(tape, chunk, self._shape) for chunk in logits])

    def _loss_of_all(self, x: Tensor) -> Tensor:
        """Return the loss of undivided logits, without the last position of each sample."""
        tape, vocabulary = self.tape, self._shape.padded_vocab_size
        logits = ops.cast(tape, self._head(x), FP32_BYTES, "logits in fp32")
        del x
        self._bind([logits])
        scored = self._batch.samples * (self._batch.length - 1)
        logits = ops.slice_of(tape, logits, scored * vocabulary)
        if self._batch.samples > 1:
            logits = ops.contiguous(tape, logits, "logits, reshaped")
        sizes = tuple(rows * vocabulary for rows in _chunks(scored))
        parts = split(tape, logits, sizes, "logits")
        return _joined(tape, [_cross_entropy(tape, part, self._shape) for part in parts])


def _chunks(rows: int) -> list[int]:
    return [min(CHUNK, rows - start) for start in range(0, rows, CHUNK)]


def _cross_entropy(tape: Tape, logits: Tensor, shape: Shape) -> Tensor:
    """``F.cross_entropy(reduction="none")`` of fp32 logits."""
    elements = logits.elements
    log_probs = tape.new(elements, FP32_BYTES, "log-probabilities")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_log_probs = tape.new(elements, FP32_BYTES, "gradient of the log-probabilities")
        made = tape.new(elements, FP32_BYTES, "gradient of the logits in fp32")
        del of_log_probs
        return [made]

    loss = tape.new(elements // shape.padded_vocab_size, FP32_BYTES, "losses")
    return tape.record(loss, (logits,), (log_probs,), backward)


def _joined(tape: Tape, losses: list[Tensor]) -> Tensor:
    """``torch.cat(losses).sum() / count``."""
    sizes = [loss.elements for loss in losses]

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed(size) for size in sizes]

    return tape.record(tape.new(1, FP32_BYTES, "loss"), tuple(losses), (), backward)
