"""A micro-batch through all layers, from a pass through a few that stand for the others.

Layers that repeat in a period make and free the same storages, only further on. A pass through the
first layer, three periods and what is left is therefore cut into the stretches of its layers, of
which those in the middle are laid end to end as often as the model repeats them. That every storage
is freed once, by what frees one of its size, is checked.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Literal

from planner.allocator.pass_trace import NO_CHANGE, Change, PassTrace
from planner.forward.model_pass import PassedLayer

Kind = Literal[
    "before",
    "forward",
    "head",
    "casts end",
    "head's casts end",
    "head's backward",
    "backward",
    "rest",
]
Stretch = tuple[Kind, int]
"""Kind of a part of a pass, and the number of its layer; -1 outside of layers."""
OUTSIDE = -1


def period_of(layers: Sequence[PassedLayer]) -> int:
    """Return after how many layers those behind the first one repeat; their number if they do
    not."""
    body = layers[1:]
    return next(n for n in range(1, len(body) + 1) if body[n:] == body[: len(body) - n])


def standing_for(layers: Sequence[PassedLayer]) -> list[int] | None:
    """Return for each layer the number of the layer that stands for it; None where these would not
    be half as many.

    The first and the last period have other neighbours, and run beside one that is between others.
    """
    if len(layers) < 2:
        return None
    period = period_of(layers)
    repeats, rest = divmod(len(layers) - 1, period)
    num_run = 1 + 3 * period + rest
    if 2 * num_run > len(layers):
        return None
    between = [*range(1 + period, 1 + 2 * period)] * (repeats - 2)
    return [*range(1 + period), *between, *range(1 + 2 * period, num_run)]


def stretches(num_layers: int) -> Iterator[Stretch]:
    """Yield the parts of a pass in the order of its log."""
    layers = range(num_layers)
    yield "before", OUTSIDE
    yield from (("forward", number) for number in layers)
    yield "head", OUTSIDE
    yield from (("casts end", number) for number in layers)
    yield "head's casts end", OUTSIDE
    yield "head's backward", OUTSIDE
    yield from (("backward", number) for number in reversed(layers))
    yield "rest", OUTSIDE


def through_all_layers(trace: PassTrace, numbers: Sequence[int]) -> PassTrace | None:
    """Return the pass through all layers, for each of which the layer of ``trace`` with that number
    stands; None where its storages do not repeat.

    Its ``weights`` are those of the layers that were run.
    """
    repeated = _Repeated(trace, numbers)
    kept = repeated.kept()
    changes = repeated.changes(kept)
    if changes is None:
        return None
    place, begins = repeated.place, repeated.begins
    layers = range(len(numbers))
    first, second = trace.workspaces
    return PassTrace(
        changes=changes,
        kept=kept,
        first_gradient=place(trace.first_gradient),
        workspaces=(place(first), place(second)),
        layers=[*(begins["forward", number] for number in layers), begins["head", OUTSIDE]],
        loss=place(trace.loss),
        casts=[
            *(begins["casts end", number] for number in layers),
            begins["head's casts end", OUTSIDE],
            begins["head's backward", OUTSIDE],
        ],
        passed=[
            *(begins["backward", number] for number in reversed(layers)),
            begins["rest", OUTSIDE],
        ],
        weights=trace.weights,
    )


class _Repeated:
    """Where the stretches of a pass through few layers lie in one through all."""

    def __init__(self, trace: PassTrace, numbers: Sequence[int]) -> None:
        self._trace, self._numbers = trace, numbers
        self._num_run = len(trace.layers) - 1
        run = [*stretches(self._num_run)]
        begins = [0, *trace.layers, *trace.casts, *trace.passed]
        ranges = [range(*pair) for pair in pairwise([*begins, len(trace.changes)])]
        self._ranges = dict(zip(run, ranges, strict=True))
        self._origins = [
            (*stretch, number)
            for stretch, each in zip(run, ranges, strict=True)
            for number in range(len(each))
        ]
        """Stretch of each change, and its place inside."""
        self._all = [*stretches(len(numbers))]
        lengths = [len(self._source(stretch)) for stretch in self._all]
        self.begins = dict(zip(self._all, accumulate(lengths, initial=0), strict=False))

    def _source(self, stretch: Stretch) -> range:
        """Return the positions of the stretch that stands for this one."""
        kind, number = stretch
        return self._ranges[kind, number if number == OUTSIDE else self._numbers[number]]

    def _moved(self, position: int, layer: int = OUTSIDE) -> int:
        """Return where a change of the few lies among all, as a stretch of this layer means it: so
        many layers away. Outside of layers it is counted from the nearer end. -1 where none is."""
        kind, number, inside = self._origins[position]
        if number != OUTSIDE:
            if layer != OUTSIDE:
                number += layer - self._numbers[layer]
            elif 2 * number >= self._num_run:
                number += len(self._numbers) - self._num_run
        begin = self.begins.get((kind, number))
        return -1 if begin is None else begin + inside

    def place(self, position: int) -> int:
        """Return the position among all that follows the change before this one."""
        return self._moved(position - 1) + 1

    def changes(self, kept: Mapping[int, int]) -> list[Change] | None:
        """Return all changes; None where one frees what is not there, or what is left differs from
        what the few leave with the gradients that all keep."""
        found: list[Change] = []
        alive: dict[int, int] = {}
        source = self._trace.changes
        for stretch in self._all:
            for position in self._source(stretch):
                size, number = source[position]
                if size > 0:
                    alive[len(found)] = size
                    found.append((size, len(found)))
                elif size == 0:
                    found.append(NO_CHANGE)
                else:
                    moved = self._moved(number, stretch[1])
                    if alive.pop(moved, None) != -size:
                        return None
                    found.append((size, moved))
        return found if alive.keys() == self._left(kept) else None

    def _left(self, kept: Mapping[int, int]) -> set[int]:
        """Return what the few leave outside of layers, and every gradient that all keep."""
        ended = {number for size, number in self._trace.changes if size < 0}
        alive = {number for size, number in self._trace.changes if size > 0} - ended
        others = alive - set(self._trace.kept.values())
        return {self._moved(number) for number in others} | set(kept.values())

    def kept(self) -> dict[int, int]:
        """Return the gradients that are kept, as ``PassTrace.kept``."""
        after: dict[Stretch, list[int]] = {}
        for position in self._trace.kept:
            kind, number, _ = self._origins[position - 1]
            after.setdefault((kind, number), []).append(position)
        found: dict[int, int] = {}
        for kind, layer in self._all:
            number = layer if layer == OUTSIDE else self._numbers[layer]
            for position in after.get((kind, number), ()):
                begin = self.begins[kind, layer] - self._ranges[kind, number].start
                found[begin + position] = self._moved(self._trace.kept[position], layer)
        return found
