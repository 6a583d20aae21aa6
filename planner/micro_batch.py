"""One micro-batch through a whole model: what is alive in forward and in backward, by owner.

The tape runs a model of two layers, the first, whose input may need no gradient, and one
of the others, which are all alike; the log between their borders is laid end to end for as
many layers as the model has.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from planner.autograd import GradientSink, Tape
from planner.decoder import Decoder
from planner.loss import cross_entropy, fused_loss
from planner.numerics import Numerics
from planner.operators import FP32, INT64, embedding
from planner.recipe import Batch, Workload
from planner.tensors import Event, Owner, Parameter, Tensor

Amounts = Counter[Owner]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the log: what it adds in the end, and what was added where it was largest."""

    net: Amounts
    top: Amounts

    @property
    def net_bytes(self) -> int:
        return sum(self.net.values())

    @property
    def top_bytes(self) -> int:
        return sum(self.top.values())


def stretch(events: Sequence[Event]) -> Stretch:
    """The sum and the largest running sum of ``events``."""
    level = best = best_at = 0
    for number, (num_bytes, _) in enumerate(events, 1):
        level += num_bytes
        if level > best:
            best, best_at = level, number
    return Stretch(net=_sums(events), top=_sums(events[:best_at]))


def _sums(events: Iterable[Event]) -> Amounts:
    sums: Amounts = Counter()
    for num_bytes, owner in events:
        sums[owner] += num_bytes
    return sums


def largest(stretches: Iterable[Stretch], before: Amounts) -> tuple[Amounts, Amounts]:
    """The largest moment of stretches laid end to end after ``before``, and their end."""
    level = Counter(before)
    at_best, best = Counter(level), sum(level.values())
    for each in stretches:
        moment = sum(level.values()) + each.top_bytes
        if moment > best:
            best = moment
            at_best = Counter(level)
            at_best.update(each.top)
        level.update(each.net)
    return at_best, level


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Bytes by owner at the largest moment of forward and of backward, and after both."""

    forward: Amounts
    backward: Amounts
    after: Amounts


@cache
def micro_batch(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: bool,
    sink: GradientSink,
) -> MicroBatch:
    """One forward and backward pass beside the model's states."""
    run = _Run(workload, batch, numerics, checkpointing=checkpointing, sink=sink)
    return run.laid_out(workload.model.num_layers)


class _Run:
    """The tape of a model of two layers, cut into stretches."""

    def __init__(
        self,
        workload: Workload,
        batch: Batch,
        numerics: Numerics,
        *,
        checkpointing: bool,
        sink: GradientSink,
    ) -> None:
        self._workload = workload
        self._batch = batch
        self._tape = Tape(sink=sink)
        self._decoder = Decoder(workload=workload, batch=batch, numerics=numerics, tape=self._tape)
        self._checkpointing = checkpointing
        self._numerics = numerics
        self._held: list[Tensor] = []
        output = self._forward()
        self._casts_gone = self._tape.autocast_ends()
        self._tape.backward(output, self._tape.new(1, FP32, "gradient of the loss"))
        self._held.clear()
        self._finished = len(self._tape.log)

    def _forward(self) -> Tensor:
        tape, model, batch = self._tape, self._workload.model, self._batch
        _inputs = tape.new(3 * batch.tokens, INT64, "token ids, labels and attention mask")
        table = self._decoder.parameter("embed_tokens", model.embedding_params)
        x = self._backbone(table)
        tape.charge("loss")
        head = table
        if not model.tied_embeddings:
            head = self._decoder.parameter("lm_head", model.embedding_params)
        if self._workload.recipe.loss == "fused":
            return fused_loss(tape, x, head, batch=batch, numerics=self._numerics)
        logits = self._decoder.product(head, x, model.vocab_size, "lm_head")
        if self._numerics.keeps_logits:
            self._held.append(logits.detached())
        return cross_entropy(tape, logits)

    def _backbone(self, table: Parameter) -> Tensor:
        """LlamaModel.forward; its variables hold the embeddings and the mask to the end."""
        tape, batch = self._tape, self._batch
        embeddings = embedding(
            tape, table, tokens=batch.tokens, hidden_size=self._workload.model.hidden_size
        )
        if self._checkpointing and not table.trains:
            embeddings.node = Parameter(
                embeddings.elements, embeddings.width, trains=True, gradient_owner="activations"
            )
        shared = [tape.new(batch.sequence_length, INT64, "position ids")]
        if batch.padded:
            scores = batch.micro_batch_size * batch.sequence_length**2
            shared.append(tape.new(scores, 1, "attention mask"))
        if self._workload.recipe.attention == "eager":
            scores = batch.micro_batch_size * batch.sequence_length**2
            shared.append(tape.new(scores, embeddings.width, "attention mask"))
        tables = self._decoder.rotary_tables(embeddings.width)
        x = embeddings
        for place in ("first", "other"):
            tape.border()
            x = self._layer(place, x, tables, shared)
        tape.border()
        return self._decoder.norm("norm", x)

    def _layer(
        self, place: str, x: Tensor, tables: tuple[Tensor, Tensor], shared: list[Tensor]
    ) -> Tensor:
        if not self._checkpointing:
            return self._decoder.layer(place, x, tables)

        def run(given: Tensor, _held: list[Tensor] = shared) -> Tensor:
            """Checkpointing holds every argument of the layer until it has run again."""
            return self._decoder.layer(place, given, tables)

        return self._tape.checkpoint(run, x)

    def laid_out(self, num_layers: int) -> MicroBatch:
        """The two layers' stretches for a model of ``num_layers``."""
        log = self._tape.log
        places = [place for _, place in self._tape.borders]
        others = num_layers - 1
        start = self._between(0, places[0])
        first, other = (self._between(*places[n : n + 2]) for n in (0, 1))
        forward_end = self._casts_gone[-1]
        head = self._between(places[2], self._casts_gone[0])
        casts = [self._between(*self._casts_gone[n : n + 2]) for n in range(3)]
        forward = [start, first, *[other] * others, head]
        ends = [casts[0], *[casts[1]] * others, casts[2]]
        passed = [forward_end, *self._tape.passed, len(log)]
        back = [self._between(*passed[n : n + 2]) for n in range(4)]
        backward = [back[0], *[back[1]] * others, back[2], back[3]]
        in_forward, level = largest(forward, Counter())
        _, level = largest(ends, level)
        in_backward, level = largest(backward, level)
        return MicroBatch(forward=in_forward, backward=in_backward, after=level)

    def _between(self, start: int, stop: int) -> Stretch:
        return stretch(self._tape.log[start:stop])
