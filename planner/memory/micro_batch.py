"""One micro-batch through a whole model: what is alive in forward and in backward, by owner.

The tape runs the first layer, whose input may need no gradient, and one of each kind among
the others, recomputed or not; the log between their borders is laid end to end for all
layers of the model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from planner.base.units import FP32_BYTES
from planner.forward.model_pass import ModelPass, PassedLayer, passed_layers
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import Strategy
from planner.tape.tape import GradientSink
from planner.tape.tensors import Owner, StorageEvent
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.settings_cache import PASS, cached_by_settings
from planner.workload.workload import Batch, Workload

Amounts = Counter[Owner]


class Stretch(NamedTuple):
    """A part of the log: what it adds in the end, and what was added where it was largest."""

    net: Amounts
    top: Amounts
    net_bytes: int
    top_bytes: int


def stretch(events: Sequence[StorageEvent]) -> Stretch:
    """The sum and the largest running sum of ``events``."""
    levels = _levels(events)
    top_bytes = max(levels)
    place = levels.index(top_bytes)
    top = _sums(events[:place])
    net = _sums(events[place:])
    add_to(net, top)
    return Stretch(net=net, top=top, net_bytes=levels[-1], top_bytes=top_bytes)


def largest_moment(events: Sequence[StorageEvent]) -> int:
    """How many events lead to the largest running sum."""
    levels = _levels(events)
    return levels.index(max(levels))


def _levels(events: Sequence[StorageEvent]) -> list[int]:
    return list(accumulate([event[0] for event in events], initial=0))


def _sums(events: Iterable[StorageEvent]) -> Amounts:
    sums: Amounts = Counter()
    for num_bytes, owner, _, _ in events:
        sums[owner] += num_bytes
    return sums


def add_to(amounts: Amounts, more: Amounts) -> None:
    """In place; ``Counter.update`` takes three times as long for a handful of owners."""
    for owner, num_bytes in more.items():
        amounts[owner] += num_bytes


def largest(stretches: Sequence[Stretch], before: Amounts) -> tuple[Amounts, Amounts]:
    """The largest moment of stretches laid end to end after ``before``, and their end."""
    total = best = before.total()
    best_place: int | None = None
    for place, each in enumerate(stretches):
        if total + each.top_bytes > best:
            best, best_place = total + each.top_bytes, place
        total += each.net_bytes
    at_best, level = before.copy(), before.copy()
    for place, each in enumerate(stretches):
        if place == best_place:
            at_best = level.copy()
            add_to(at_best, each.top)
        add_to(level, each.net)
    return at_best, level


class MicroBatch(NamedTuple):
    """Bytes by owner at the largest moments."""

    layers_forward: Amounts
    """Of forward up to the last layer."""
    forward: Amounts
    """Of forward as a whole."""
    head_backward: Amounts
    """From the loss back to the last layer: before any of the layers' gradients is there."""
    before_layers: Amounts
    """When the last layer's backward pass begins."""
    layers: tuple[Stretch, ...]
    """Of backward: the last layer first, the embedding last."""

    @property
    def layers_backward(self) -> Amounts:
        found, _ = largest(self.layers, self.before_layers)
        return found

    @property
    def backward(self) -> Amounts:
        """Of backward as a whole."""
        return max(self.head_backward, self.layers_backward, key=lambda found: found.total())


def micro_batch(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: int,
    sink: GradientSink,
    reduce_bucket_size: int = 0,
) -> MicroBatch:
    """One forward and backward pass beside the model's states; every ``checkpointing``-th layer
    is recomputed, none where it is 0."""
    if isinstance(workload.model, TracedSpec):
        return _traced(workload, workload.model, batch, numerics, checkpointing, sink)
    return tape_pass(
        workload,
        batch,
        numerics,
        checkpointing=checkpointing,
        sink=sink,
        reduce_bucket_size=reduce_bucket_size,
    )


@cached_by_settings(*PASS)
def tape_pass(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: int,
    sink: GradientSink,
    reduce_bucket_size: int,
) -> MicroBatch:
    """As :func:`micro_batch`, of a model with a forward pass here."""
    first, *others = passed_layers(workload.model, checkpointing)
    kinds = tuple(dict.fromkeys(others))
    passed = stretches_of(
        workload,
        batch,
        numerics,
        layers=(first, *kinds),
        sink=sink,
        reduce_bucket_size=reduce_bucket_size,
    )
    return _laid_out(passed, [0, *(1 + kinds.index(kind) for kind in others)])


class _Passed(NamedTuple):
    """The stretches of one run, which stand for however many layers of its kinds."""

    before: Stretch
    layers: list[Stretch]
    head: Stretch
    casts_gone: list[Stretch]
    """At the end of forward: of each layer, then of the head."""
    back_in_head: Stretch
    back: list[Stretch]
    """The last layer first."""
    rest: Stretch


@cached_by_settings(*PASS)
def stretches_of(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    layers: tuple[PassedLayer, ...],
    sink: GradientSink,
    reduce_bucket_size: int,
) -> _Passed:
    """Every second layer recomputed or every fourth: it is the same run."""
    run = ModelPass(
        workload,
        batch,
        numerics,
        layers=layers,
        sink=sink,
        reduce_bucket_size=reduce_bucket_size,
    )
    before, passed, head = _forward_stretches(run)
    back_in_head, *back, rest = _stretches(
        run, [run.casts_gone[-1], *run.tape.passed, len(run.tape.log)]
    )
    return _Passed(
        before=before,
        layers=passed,
        head=head,
        casts_gone=_stretches(run, run.casts_gone),
        back_in_head=back_in_head,
        back=back,
        rest=rest,
    )


def forward_alone(workload: Workload, batch: Batch, numerics: Numerics) -> Amounts:
    """Bytes at the largest moment of a forward pass that no backward pass follows, as in an
    evaluation. Of a traced model those of training, which are no less."""
    if isinstance(workload.model, TracedSpec):
        return _traced(workload, workload.model, batch, numerics, 0, "keep").forward
    return tape_forward(workload, batch, numerics)


@cached_by_settings(*PASS)
def tape_forward(workload: Workload, batch: Batch, numerics: Numerics) -> Amounts:
    """As :func:`forward_alone`, of a model with a forward pass here."""
    first, *others = passed_layers(workload.model, 0)
    kinds = list(dict.fromkeys(others))
    run = ModelPass(workload, batch, numerics, layers=[first, *kinds], sink="keep", trains=False)
    layers = [0, *(1 + kinds.index(kind) for kind in others)]
    return _forward(*_forward_stretches(run), layers)[1]


def _traced(
    workload: Workload,
    model: TracedSpec,
    batch: Batch,
    numerics: Numerics,
    checkpointing: int,
    sink: GradientSink,
) -> MicroBatch:
    """From a trace of the real model. Gradients that lie there before, or that DeepSpeed takes
    away, are counted as model states."""
    sharded = not numerics.autocast and numerics.compute < FP32_BYTES
    strategies: dict[GradientSink, Strategy] = {"reduce": "zero2"}
    layout = Layout(
        strategy=strategies.get(sink, "zero1") if sharded else "single",
        world_size=2 if sharded else 1,
        micro_batch_size=batch.micro_batch_size,
        gradient_accumulation_steps=2 if sink == "add" else 1,
        activation_checkpointing=checkpointing > 0,
        checkpoint_every=checkpointing or 1,
    )
    phases = model.trace(workload, layout)
    owners: tuple[Owner, ...] = ("activations", "loss", "workspace")
    owners += ("gradients",) if sink == "keep" else ()
    forward, backward = (
        Counter({owner: phases[phase].get(owner, 0) for owner in owners})
        for phase in ("forward", "backward")
    )
    nothing = stretch([])
    return MicroBatch(
        layers_forward=forward,
        forward=forward,
        head_backward=backward,
        before_layers=backward,
        layers=(nothing,) * (model.num_layers + 1),
    )


def _stretches(run: ModelPass, places: Sequence[int]) -> list[Stretch]:
    return [stretch(run.tape.log[start:stop]) for start, stop in pairwise(places)]


def _forward_stretches(run: ModelPass) -> tuple[Stretch, list[Stretch], Stretch]:
    """Before the layers, each of them, and from the last one to the end of forward."""
    places = [place for _, place in run.tape.borders]
    before, *layers, head = _stretches(run, [0, *places, run.casts_gone[0]])
    return before, layers, head


def _forward(
    before: Stretch, there: Sequence[Stretch], head: Stretch, layers: Sequence[int]
) -> tuple[Amounts, Amounts, Amounts]:
    """The largest moments of forward up to the last layer and as a whole, and its end."""
    in_layers, level = largest([before, *(there[n] for n in layers)], Counter())
    in_head, level = largest([head], level)
    return in_layers, max(in_layers, in_head, key=lambda found: found.total()), level


def _laid_out(run: _Passed, layers: Sequence[int]) -> MicroBatch:
    """The stretches of the layers that were run, one for each layer of the model."""
    in_layers, forward, level = _forward(run.before, run.layers, run.head, layers)
    *casts, last_casts = run.casts_gone
    _, level = largest([*(casts[n] for n in layers), last_casts], level)
    back_in_head, level = largest([run.back_in_head], level)
    return MicroBatch(
        layers_forward=in_layers,
        forward=forward,
        head_backward=back_in_head,
        before_layers=level,
        layers=(*(run.back[-1 - n] for n in reversed(layers)), run.rest),
    )
