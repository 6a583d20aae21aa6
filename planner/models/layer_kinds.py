"""Which layers of a model are alike, and how the others differ."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

from planner.base.bounded_cache import bounded_cache
from planner.models.expert_shape import ExpertsSpec
from planner.models.recurrent_shape import GatedDeltaSpec


class LayerKind(NamedTuple):
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
    """Whether it keeps a state: by a gated delta net, a Mamba-2 mixer or a short convolution."""
    attends: bool = True
    feeds: bool = True
    """Whether it has an MLP or experts."""


Blocks = Literal["pairs", "single"]
"""``pairs``: a layer has attention or a state, then an MLP or experts. ``single``: it has only one
of them (Nemotron-H)."""
RECURRENT, ATTENDING, BOTH, MLP, EXPERTS = "M*H-E"
"""Letters of the layers: those of Nemotron-H's ``hybrid_override_pattern``, and ``H`` for a layer
that attends and keeps a state (Falcon-H1)."""


class LayerPattern(NamedTuple):
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

    def kind(self, number: int) -> LayerKind:
        """Return the kind of a layer; the first layer has number 1."""
        full = number <= self.full_first or _is_last_of(self.full_every, number)
        letter = self._letter(number)
        in_pairs = self.blocks == "pairs"
        return LayerKind(
            sliding_window=None if full else self.window,
            rotates=not _is_last_of(self.unrotated_every, number),
            routed=self.experts is not None
            and (self.experts.routes(number - 1) if in_pairs else letter == EXPERTS),
            recurrent=letter in (RECURRENT, BOTH),
            attends=letter in (ATTENDING, BOTH),
            feeds=in_pairs or letter in (MLP, EXPERTS),
        )

    def _letter(self, number: int) -> str:
        if self.letters is not None:
            return self.letters[(number - 1) % len(self.letters)]
        if self.delta is None or _is_last_of(self.delta.attention_every, number):
            return ATTENDING
        return RECURRENT


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
