"""One micro-batch through a whole model: what is alive in forward and in backward, by owner.

The tape runs the first layer, whose input may need no gradient, and one of each kind among the
others, recomputed or not; the log between their borders is laid end to end for all layers of the
model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from msgspec import Struct

from planner.base.units import FP32_BYTES
from planner.forward.bloom import RETURNS_WEIGHTS
from planner.forward.model_pass import ModelPass, PassedLayer, passed_layers
from planner.models.traced_model import TracedSpec
from planner.tape.attention_workspaces import as_kernels_see
from planner.tape.tape import GradientSink, Tape
from planner.tape.tensors import Owner, StorageEvent
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.settings_cache import PASS, TRAINING_PASS, cached_by_settings
from planner.workload.workload import Batch, Workload

Amounts = Counter[Owner]
"""Bytes by owner."""


class Stretch(Struct, frozen=True):
    """A stretch of the log: the bytes it has added at its end, and at its largest moments."""

    net: Amounts
    """Bytes that are added by the end."""
    top: Amounts
    """Bytes that are added at the largest moment."""
    arriving: Amounts
    """Bytes that are added at the largest moment in which a parameter's gradient arrives; those at
    the end where none does."""
    late: Amounts
    """Bytes that are added at the largest moment from the first such arrival on."""
    net_bytes: int
    top_bytes: int
    arriving_bytes: int
    late_bytes: int
    arrives: bool = False
    """Whether a parameter's gradient arrives."""


def stretch(events: Sequence[StorageEvent], arrivals: Sequence[int] = ()) -> Stretch:
    """Return the sum and the largest running sums of ``events``; gradients arrive at the positions
    ``arrivals`` among them."""
    levels = _levels(events)
    top_bytes = max(levels)
    place = levels.index(top_bytes)
    arrival = max(arrivals, key=levels.__getitem__, default=len(events))
    late, first = place, min(arrivals, default=len(events))
    if place < first:
        rest = levels[first:]
        late = first + rest.index(max(rest))
    top = sums_of(events[:place])
    until_late = top
    if late > place:
        until_late = sums_of(events[place:late])
        add_to(until_late, top)
    net = sums_of(events[late:])
    add_to(net, until_late)
    return Stretch(
        net=net,
        top=top,
        arriving=sums_of(events[:arrival]) if arrivals else net,
        late=until_late,
        net_bytes=levels[-1],
        top_bytes=top_bytes,
        arriving_bytes=levels[arrival],
        late_bytes=levels[late],
        arrives=bool(arrivals),
    )


def largest_moment(events: Sequence[StorageEvent]) -> int:
    """Return how many events lead to the largest running sum."""
    levels = _levels(events)
    return levels.index(max(levels))


def _levels(events: Sequence[StorageEvent]) -> list[int]:
    return list(accumulate([event[0] for event in events], initial=0))


def sums_of(events: Iterable[StorageEvent]) -> Amounts:
    sums: dict[Owner, int] = {}  # quicker than a Counter
    for num_bytes, owner, _, _ in events:
        sums[owner] = sums.get(owner, 0) + num_bytes
    return Counter(sums)


def add_to(amounts: Amounts, more: Amounts) -> None:
    """Add ``more`` to ``amounts`` in place; ``Counter.update`` takes three times as long for so few
    owners."""
    for owner, num_bytes in more.items():
        amounts[owner] += num_bytes


def largest(stretches: Sequence[Stretch], before: Amounts) -> tuple[Amounts, Amounts]:
    """Return what is alive at the largest moment of stretches laid end to end after ``before``, and
    at their end."""
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


class MicroBatch(Struct, frozen=True):
    """Bytes by owner at the largest moments of one micro-batch."""

    layers_forward: Amounts
    """Bytes in forward up to the last layer."""
    forward: Amounts
    """Bytes in all of forward."""
    head_backward: Amounts
    """Bytes from the loss back to the last layer, before any of the layers' gradients exists."""
    before_layers: Amounts
    """Bytes when the last layer's backward pass begins."""
    layers: tuple[Stretch, ...]
    """Stretches of backward, the last layer first, the embedding last."""
    head_holes_bytes: int
    """Bytes that may lie free in the allocator's pool when it grows for the head."""
    ahead: tuple[Stretch, ...]
    """Stretches of forward: what comes before the layers, then each layer."""
    waiting: Amounts
    """Bytes that go when backward has ended: a gradient that no bucket holds."""
    arriving_in_head: Amounts | None = None
    """Bytes at the largest moment before the layers' backward passes in which a parameter's
    gradient arrives; None where none does."""
    to_host: tuple[int, ...] = ()
    """Bytes of each tensor that waits in host memory for the backward pass."""

    @property
    def layers_backward(self) -> Amounts:
        """Bytes in the layers' backward pass."""
        found, _ = largest(self.layers, self.before_layers)
        return found

    @property
    def backward(self) -> Amounts:
        """Bytes in all of backward."""
        return max(self.head_backward, self.layers_backward, key=lambda found: found.total())

    @property
    def pool_above_backward_bytes(self) -> int:
        """Bytes by which the allocator's pool, when it grows for the head, exceeds the largest
        moment of backward; negative where it does not."""
        in_head = max(self.forward.total(), self.head_backward.total())
        return in_head + self.head_holes_bytes - self.backward.total()


def micro_batch(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: int,
    sink: GradientSink,
    reduce_bucket_size: int = 0,
) -> MicroBatch:
    """Return one forward and backward pass beside the model's states.

    Every ``checkpointing``-th layer is recomputed, no layer where it is 0. ``reduce_bucket_size``
    is in elements.
    """
    if isinstance(workload.model, TracedSpec):
        return _traced(workload, workload.model, batch, numerics, checkpointing, sink)
    return tape_pass(
        workload,
        as_kernels_see(batch),
        numerics,
        checkpointing=checkpointing,
        sink=sink,
        reduce_bucket_size=reduce_bucket_size,
    )


@cached_by_settings(*TRAINING_PASS)
def tape_pass(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    checkpointing: int,
    sink: GradientSink,
    reduce_bucket_size: int,
) -> MicroBatch:
    """Return :func:`micro_batch` for a model with a forward pass in planner/forward."""
    first, *others = placed_layers(workload, checkpointing)
    kinds = tuple(dict.fromkeys(others))
    ends = others[-1:] if workload.model.model_type in RETURNS_WEIGHTS else ()
    passed = stretches_of(
        workload,
        batch,
        numerics,
        layers=tuple(each.layer for each in (first, *kinds, *ends)),
        sink=sink,
        reduce_bucket_size=reduce_bucket_size,
    )
    return _laid_out(passed, [0, *(1 + kinds.index(kind) for kind in others)])


class _Placed(Struct, frozen=True):
    """A layer, and what of the layers before it makes its bytes others."""

    layer: PassedLayer
    behind_trained: bool
    """Whether one before it, or the table, trains: of what only frozen weights made, nothing is
    kept for a gradient."""
    behind_experts: bool
    """Whether one before it has experts, whose output may be wider than the embeddings, and then
    the residual stream, too."""
    behind_recomputed: bool
    """Whether the one before it is recomputed and returns its attention weights, which then go when
    this one has run, since no graph keeps them."""


def placed_layers(workload: Workload, checkpointing: int) -> list[_Placed]:
    """Return all layers in order; those that are equal take the same bytes, but for the first."""
    model = workload.model
    trains = {
        kind: bool(workload.adapted(kind) or workload.adapted_experts(kind)) for kind in model.kinds
    }
    trained, routed, found = workload.method == "full", False, list[_Placed]()
    weighed, recomputed = model.model_type in RETURNS_WEIGHTS, False
    for layer in passed_layers(model, checkpointing):
        found.append(_Placed(layer, trained, routed, weighed and recomputed))
        recomputed = layer.recomputed
        trained = trained or trains[layer.kind] or bool(workload.adapted_outside)
        routed = routed or layer.kind.routed
    return found


class _Passed(Struct, frozen=True):
    """Stretches of one run, which stand for any number of layers of its kinds."""

    before: Stretch
    layers: list[Stretch]
    head: Stretch
    casts_gone: list[Stretch]
    """Stretches at the end of forward in which autocast drops the casts of each layer, then of the
    head."""
    back_in_head: Stretch
    back: list[Stretch]
    """Stretches of the layers' backward passes, the last layer first."""
    rest: Stretch
    waiting: Amounts
    """Bytes that go after the last of backward."""
    largest_of_head_bytes: int
    """Bytes of the largest tensor between the last layer's forward pass and its backward pass."""
    to_host: list[list[int]]
    """Bytes of each tensor that waits in host memory, by layer."""

    @property
    def holes_bytes(self) -> int:
        """Bytes that may lie free when the pool grows for the head.

        It grows for a request that no hole can hold, so that each hole is smaller than the head's
        largest tensor. Two kinds are left. What a layer frees of its own lies behind what it keeps,
        and serves the next layer again: once the most that a layer frees. And what the head frees
        between tensors that stay, as the 16-bit logits are and their gradient, below a workspace
        and below a gradient in fp32: no more than the request that fits neither. The second is no
        theorem of every order of requests; benchmarks/results/simulated.csv holds what PyTorch's
        allocator made of these.
        """
        freed = max(each.top_bytes - max(0, each.net_bytes) for each in self.layers)
        return self.largest_of_head_bytes + freed


@cached_by_settings(*TRAINING_PASS)
def stretches_of(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    *,
    layers: tuple[PassedLayer, ...],
    sink: GradientSink,
    reduce_bucket_size: int,
) -> _Passed:
    """Return the stretches of a run, the same one for every second layer recomputed as for every
    fourth."""
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
        waiting=_waiting(run.tape),
        largest_of_head_bytes=max(event[0] for event in _head_events(run)),
        to_host=[
            [num_bytes for layer, num_bytes in run.tape.offloaded if layer == number]
            for number in range(1, len(layers) + 1)
        ],
    )


def _waiting(tape: Tape) -> Amounts:
    freed = sums_of(tape.log[tape.arrivals[-1] :]) if tape.arrivals else Counter[Owner]()
    return Counter({owner: -num_bytes for owner, num_bytes in freed.items()})


def _head_events(run: ModelPass) -> list[StorageEvent]:
    (_, begins), ends = run.tape.borders[-1], run.tape.passed[0]
    return run.tape.log[begins:ends]


class ForwardAlone(Struct, frozen=True):
    """Bytes by owner of a forward pass that no backward pass follows, as in an evaluation."""

    layers: Amounts
    """Bytes at the largest moment up to the last layer."""
    whole: Amounts
    """Bytes at the largest moment of all."""
    ahead: tuple[Stretch, ...] = ()
    """Stretches of what comes before the layers, then of each layer."""
    cached: int = 0
    """Bytes of keys and values that the pass of the next token begins with."""


def forward_alone(
    workload: Workload, batch: Batch, numerics: Numerics, *, generates: bool
) -> ForwardAlone:
    """Return the bytes of a forward pass that no backward pass follows; where it ``generates``,
    beside the keys and values that it keeps.

    For a traced model they are those of training, which are at least as large.
    """
    if isinstance(workload.model, TracedSpec):
        whole = _traced(workload, workload.model, batch, numerics, 0, "keep").forward
        in_layers = whole.copy()
        del in_layers["loss"]
        return ForwardAlone(in_layers, whole)
    return tape_forward(workload, as_kernels_see(batch), numerics, generates=generates)


@cached_by_settings(*PASS)
def tape_forward(
    workload: Workload, batch: Batch, numerics: Numerics, *, generates: bool
) -> ForwardAlone:
    """Return :func:`forward_alone` for a model with a forward pass in planner/forward."""
    first, *others = placed_layers(workload, 0)
    kinds = list(dict.fromkeys(others))
    run = ModelPass(
        workload,
        batch,
        numerics,
        layers=[each.layer for each in (first, *kinds)],
        sink="keep",
        trains=False,
        generates=generates,
    )
    layers = [0, *(1 + kinds.index(kind) for kind in others)]
    before, there, head = _forward_stretches(run)
    in_layers, whole, _ = _forward(before, there, head, layers)
    return ForwardAlone(in_layers, whole, (before, *(there[n] for n in layers)))


def _traced(
    workload: Workload,
    model: TracedSpec,
    batch: Batch,
    numerics: Numerics,
    checkpointing: int,
    sink: GradientSink,
) -> MicroBatch:
    """Return what a trace of the real model says. Earlier gradients, and those that DeepSpeed takes
    away, are counted as model states; of holes only the stock loss's are known."""
    sharded = numerics.master > 0 and numerics.compute < FP32_BYTES
    layout = Layout(
        strategy="zero1" if sharded else "single",
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
        head_holes_bytes=batch.tokens
        * model.vocab_size
        * FP32_BYTES
        * (workload.loss == "standard"),
        ahead=(),
        waiting=Counter(),
    )


def _stretches(run: ModelPass, places: Sequence[int]) -> list[Stretch]:
    """Return the stretches between these positions; a gradient that arrives at one of them belongs
    to what it ends."""
    log, arrivals = run.tape.log, run.tape.arrivals
    return [
        stretch(log[start:stop], [place - start for place in arrivals if start < place <= stop])
        for start, stop in pairwise(places)
    ]


def _forward_stretches(run: ModelPass) -> tuple[Stretch, list[Stretch], Stretch]:
    """Return the stretches before the layers, of each layer, and from the last one to the end of
    forward."""
    places = [place for _, place in run.tape.borders]
    before, *layers, head = _stretches(run, [0, *places, run.casts_gone[0]])
    return before, layers, head


def _forward(
    before: Stretch, there: Sequence[Stretch], head: Stretch, layers: Sequence[int]
) -> tuple[Amounts, Amounts, Amounts]:
    """Return the largest moments of forward up to the last layer and as a whole, and its end."""
    in_layers, level = largest([before, *(there[n] for n in layers)], Counter())
    in_head, level = largest([head], level)
    return in_layers, max(in_layers, in_head, key=lambda found: found.total()), level


def _laid_out(run: _Passed, layers: Sequence[int]) -> MicroBatch:
    """Return the stretches of the layers that were run, one for each layer of the model."""
    in_layers, forward, level = _forward(run.before, run.layers, run.head, layers)
    *casts, last_casts = run.casts_gone
    _, level = largest([*(casts[n] for n in layers), last_casts], level)
    arriving = None
    if run.back_in_head.arrives:
        arriving = level.copy()
        add_to(arriving, run.back_in_head.arriving)
    back_in_head, level = largest([run.back_in_head], level)
    return MicroBatch(
        layers_forward=in_layers,
        forward=forward,
        head_backward=back_in_head,
        before_layers=level,
        layers=(*(run.back[-1 - n] for n in reversed(layers)), run.rest),
        head_holes_bytes=run.holes_bytes,
        ahead=(run.before, *(run.layers[n] for n in layers)),
        waiting=run.waiting,
        arriving_in_head=arriving,
        to_host=tuple(num_bytes for n in layers for num_bytes in run.to_host[n]),
    )
