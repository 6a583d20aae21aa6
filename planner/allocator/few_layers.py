"""A micro-batch of all layers from a pass through one of each kind: quick enough for every plan.

A layer that is like another one does not run. What it would keep from forward to backward is
allocated when the first layer has run, and goes before that layer's backward pass, when its
gradients come. What a run needs most at one time lies at the ends, where a layer runs beside the
most or the least that the others hold, and there the layers do run.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import repeat, zip_longest

from msgspec import Struct, structs

from planner.allocator.all_layers import standing_for, through_all_layers
from planner.allocator.held_sizes import quantized_sizes
from planner.allocator.large_requests import (
    Request,
    Sizes,
    allocated,
    freed,
    most_small,
    split_by_pool,
)
from planner.allocator.pass_trace import PassTrace, trace_of
from planner.allocator.pools import SMALL_REQUEST_BYTES
from planner.forward.model_pass import PassedLayer, passed_layers
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.workload import Batch, Workload

Inserted = Iterable[tuple[int, Iterable[Request]]]
"""Requests that come before the change at a position of a pass."""

MOST_CHANGES = 13_000
"""Storages that come and go in a pass through all layers up to which all of them run: of models
that are small beside their logits, where a few bytes decide whether these fit into a hole."""
SMALL_MODEL_BYTES = 1 << 30
"""Bytes of weights up to which three times as many are run: holes between the layers take a few
pages of 20 MiB of any model, percents of a small one, and small blocks leave holes, too."""


class LeftOut(Struct, frozen=True):
    """What one layer that does not run would hold."""

    casts: Sizes
    """Bytes of each large tensor that it keeps until autocast ends."""
    saved: Sizes
    """Bytes of each large tensor that it keeps until its backward pass."""
    gradients: Sizes
    """Bytes of each large gradient that its backward pass leaves."""
    small_bytes: int
    """Bytes of all small tensors among these."""


class FewLayers(Struct, frozen=True):
    """A pass through one layer of each kind, and the layers that it stands for."""

    trace: PassTrace
    left_out: list[LeftOut]
    counts: list[int]
    """Number of layers for which each layer of the pass stands."""

    def weight_sizes(self, *, trains: bool | None = None) -> Iterator[int]:
        """Yield the bytes of each weight of all layers, or of those that train or do not."""
        for name, weight in self.trace.weights.items():
            if trains in (None, weight.trains):
                place = name.split(".")
                count = self.counts[int(place[1])] if place[0] == "layers" else 1
                yield from repeat(weight.elements * weight.width, count)

    @property
    def least_bytes(self) -> int:
        """Bytes of the largest request that is not replayed: small ones are where all layers
        run."""
        return SMALL_REQUEST_BYTES if self.left_out else 0

    @property
    def small_bytes(self) -> int:
        """Bytes of small blocks when there are most of them, where these are not replayed."""
        if not self.left_out:
            return 0
        return most_small(self.trace.changes) + sum(layer.small_bytes for layer in self.left_out)


def passed(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    numerics: Numerics,
    *,
    bucket_size: int | None,
) -> FewLayers:
    """Return a pass through the first layer and the last one of each kind among the others, or
    through all layers where that is quick too."""
    layers = passed_layers(workload.model, layout.checkpointing)
    first, *others = layers
    last = list(dict.fromkeys(reversed(others)))[::-1]
    trace = trace_of(workload, batch, numerics, (first, *last), bucket_size=bucket_size)
    few = FewLayers(trace, [], [1, *(others.count(layer) for layer in last)])
    most = MOST_CHANGES * (3 if _weights_bytes(workload, few) <= SMALL_MODEL_BYTES else 1)
    if len(trace.changes) * len(layers) <= most * len(few.counts):
        return _through_all(workload, batch, numerics, layers, bucket_size=bucket_size)
    left_out: list[LeftOut] = []
    for layer, count in enumerate(few.counts):
        left_out += [held_by(trace, layer)] * (count - 1)
    return structs.replace(few, left_out=left_out)


def _through_all(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    layers: Sequence[PassedLayer],
    *,
    bucket_size: int | None,
) -> FewLayers:
    """Return a pass through all layers, of which as few run as tell what the others do."""
    numbers = standing_for(layers)
    if numbers is not None:
        run = [layers[numbers.index(number)] for number in range(1 + max(numbers))]
        trace = trace_of(workload, batch, numerics, run, bucket_size=bucket_size)
        whole = through_all_layers(trace, numbers)
        if whole is not None:
            return FewLayers(whole, [], [numbers.count(number) for number in range(len(run))])
    trace = trace_of(workload, batch, numerics, layers, bucket_size=bucket_size)
    return FewLayers(trace, [], [1] * len(layers))


def _weights_bytes(workload: Workload, few: FewLayers) -> int:
    """Return the bytes of all weights."""
    return sum(few.weight_sizes()) + sum(quantized_sizes(workload))


def workspaces_of(trace: PassTrace, sizes: Sizes) -> Inserted:
    """Return cuBLAS's workspaces of these sizes, each where its first product is."""
    return (
        (position, [(("workspace", number), size)])
        for number, (position, size) in enumerate(zip(trace.workspaces, sizes, strict=False))
    )


def micro_batch(
    name: Hashable, run: FewLayers, more: Inserted, *, adds: bool = False
) -> Iterator[Request]:
    """Yield a pass whose gradients are kept, or added to earlier ones, with what the layers that
    are left out hold."""
    trace, left_out = run.trace, run.left_out
    inserted: dict[int, list[Iterable[Request]]] = {}
    for position, requests in (
        (trace.layers[1], _forward_of(name, left_out)),
        (trace.casts[-1], _casts_end(name, left_out)),
        (trace.passed[-2], _backward_of(name, left_out, adds=adds)),
        *more,
    ):
        inserted.setdefault(position, []).append(requests)
    changes, least = trace.added() if adds else enumerate(trace.changes), run.least_bytes
    for position, (num_bytes, number) in changes:
        if position in inserted:
            for requests in inserted.pop(position):
                yield from requests
        if num_bytes > least:
            yield (name, number), num_bytes
        elif num_bytes < -least:
            yield (name, number), 0


def _forward_of(name: Hashable, left_out: Sequence[LeftOut]) -> Iterator[Request]:
    for number, layer in enumerate(left_out):
        yield from allocated((name, "casts", number), layer.casts)
        yield from allocated((name, "saved", number), layer.saved)


def _casts_end(name: Hashable, left_out: Sequence[LeftOut]) -> Iterator[Request]:
    for number, layer in enumerate(left_out):
        yield from freed((name, "casts", number), len(layer.casts))


def _backward_of(name: Hashable, left_out: Sequence[LeftOut], *, adds: bool) -> Iterator[Request]:
    for number, layer in enumerate(left_out):
        gradients = [] if adds else allocated((name, "gradients", number), layer.gradients)
        saved = freed((name, "saved", number), len(layer.saved))
        for pair in zip_longest(gradients, saved):
            yield from (request for request in pair if request is not None)


def dropped(name: Hashable, run: FewLayers) -> Iterator[Request]:
    """Yield the ends of a step's gradients."""
    for number in run.trace.kept.values():
        if run.trace.changes[number][0] > run.least_bytes:
            yield (name, number), 0
    for number, layer in enumerate(run.left_out):
        yield from freed((name, "gradients", number), len(layer.gradients))


def held_by(trace: PassTrace, layer: int) -> LeftOut:
    """Return what the layer with this number in the trace holds.

    Its output takes the place of its input, and its input's gradient that of its output's, so that
    one of each is not counted.
    """
    from_last = len(trace.layers) - 2 - layer
    forward = range(*trace.layers[layer : layer + 2])
    casts = range(*trace.casts[layer : layer + 2])
    backward = range(*trace.passed[from_last : from_last + 2])
    ends = {number: place for place, (size, number) in enumerate(trace.changes) if size < 0}
    kept = _left_by(trace, ends, forward, range(forward.start))
    gradients = _left_by(trace, ends, backward, range(forward.stop, backward.start))
    until_casts, small_casts = split_by_pool(
        size for size, number in kept if ends.get(number) in casts
    )
    saved, small_saved = split_by_pool(
        size for size, number in kept if ends.get(number) not in casts
    )
    gradient_sizes, small_gradients = split_by_pool(size for size, _ in gradients)
    return LeftOut(
        casts=until_casts,
        saved=saved,
        gradients=gradient_sizes,
        small_bytes=small_casts + small_saved + small_gradients,
    )


def _left_by(
    trace: PassTrace, ends: dict[int, int], stretch: range, before: range
) -> list[tuple[int, int]]:
    """Return what a stretch allocates and leaves, less as much of each size as it frees of what
    was made ``before``."""
    changes = [trace.changes[place] for place in stretch]
    left = [
        (size, number)
        for size, number in changes
        if size > 0 and ends.get(number, stretch.stop) >= stretch.stop
    ]
    for size, number in changes:
        if size < 0 and number in before:
            same = next((each for each in reversed(left) if each[0] == -size), None)
            if same is not None:
                left.remove(same)
    return left
