"""Which layers of a model are alike, and how the others differ."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from planner.base.bounded_cache import bounded_cache
from planner.models.expert_shape import ExpertsSpec
from planner.models.layered_shape import SharedKeysSpec
from planner.models.recurrent_shape import GatedDeltaSpec

Sharing = Literal["none", "stores", "reads"]
"""``none``: a layer attends to its own keys and values. ``stores``: others do, too. ``reads``: it
has none and attends to those of another layer."""


class LayerKind(Struct, frozen=True):
    """The properties in which layers of a model differ; layers of one kind are all alike."""

    sliding_window: int | None = None
    """Positions that attention looks back; beyond it a mask is needed."""
    routed: bool = False
    """Whether tokens go to experts instead of one MLP."""
    variety: int = 0
    """Which of the sets of matrices it has, in a model that is traced."""
    rotates: bool = True
    """Whether queries and keys are turned by their positions."""
    recurrent: bool = False
    """Whether it keeps a state: by a gated delta net, a Mamba mixer or a short convolution."""
    attends: bool = True
    feeds: bool = True
    """Whether it has an MLP or experts."""
    sharing: Sharing = "none"
    """What it does with keys and values that several layers attend to."""
    sparse: bool = False
    """Whether its MLP keeps its largest activations alone (Gemma 3n)."""
    closes: bool = False
    """Whether it is the last layer that reads what layers share, so that in backward the gradient
    of that begins with it."""


Blocks = Literal["pairs", "single"]
"""``pairs``: a layer has attention or a state, then an MLP or experts. ``single``: it has only one
of them (Nemotron-H)."""
RECURRENT, ATTENDING, BOTH, MLP, EXPERTS = "M*H-E"
"""Letters of the layers: those of Nemotron-H's ``hybrid_override_pattern``, and ``H`` for a layer
that attends and keeps a state (Falcon-H1)."""


class LayerPattern(Struct, frozen=True):
    """The fields of ModelSpec that decide the kind of each layer."""

    num_layers: int
    window: int | None
    full_every: int | None
    full_first: int
    unrotated_every: int | None
    experts: ExpertsSpec | None
    delta: GatedDeltaSpec | None
    letters: str | None
    blocks: Blocks
    shared_keys: SharedKeysSpec | None
    has_per_layer_inputs: bool
    sparse_layers: int

    def kind(self, number: int) -> LayerKind:
        """Return the kind of a layer; the first layer has number 1."""
        letter = self._letter(number)
        in_pairs = self.blocks == "pairs"
        return LayerKind(
            sliding_window=self._window(number),
            rotates=not _is_last_of(self.unrotated_every, number),
            routed=self.experts is not None
            and (self.experts.routes(number - 1) if in_pairs else letter == EXPERTS),
            recurrent=letter in (RECURRENT, BOTH),
            attends=letter in (ATTENDING, BOTH),
            feeds=in_pairs or letter in (MLP, EXPERTS),
            sharing=self._sharing(number),
            sparse=number <= self.sparse_layers,
            closes=self._closes(number),
        )

    def _letter(self, number: int) -> str:
        if self.letters is not None:
            return self.letters[(number - 1) % len(self.letters)]
        if self.delta is None or _is_last_of(self.delta.attention_every, number):
            return ATTENDING
        return RECURRENT

    def _window(self, number: int) -> int | None:
        full = number <= self.full_first or _is_last_of(self.full_every, number)
        return None if full else self.window

    @property
    def _own_keys(self) -> int:
        """Number of layers that have keys and values of their own."""
        readers = 0 if self.shared_keys is None else self.shared_keys.num_layers
        return self.num_layers - readers

    def _sharing(self, number: int) -> Sharing:
        if self.shared_keys is None:
            return "none"
        if number > self._own_keys:
            return "reads"
        return "stores" if self._is_last(number, self._own_keys) else "none"

    def _closes(self, number: int) -> bool:
        reads = self._sharing(number) == "reads" and self._is_last(number, self.num_layers)
        return reads or (self.has_per_layer_inputs and number == self.num_layers)

    def _is_last(self, number: int, end: int) -> bool:
        """Return whether no layer between this one and ``end`` has the same window."""
        after = range(number + 1, end + 1)
        return all(self._window(each) != self._window(number) for each in after)


def _is_last_of(every: int | None, number: int) -> bool:
    return every is not None and number % every == 0


@bounded_cache
def layers_of(pattern: LayerPattern) -> tuple[LayerKind, ...]:
    """Return the kind of each layer, in forward order."""
    return tuple(pattern.kind(number) for number in range(1, pattern.num_layers + 1))


@bounded_cache
def counted(pattern: LayerPattern) -> Mapping[LayerKind, int]:
    """Return how many layers there are of each kind, in the order in which they first come."""
    return Counter(layers_of(pattern))


def shortest_period(letters: str) -> str:
    """Return the shortest beginning that ``letters`` repeat at least twice, the last time cut, or
    all letters where they repeat none.

    >>> shortest_period("MM*MM*MM"), shortest_period("MMM"), shortest_period("M-*M")
    ('MM*', 'M', 'M-*M')
    """
    count = len(letters)
    periods = (letters[:length] for length in range(1, count // 2 + 1))
    return next((each for each in periods if (each * count)[:count] == letters), letters)
