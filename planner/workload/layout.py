"""How a workload is laid out on a cluster, and every layout there is."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import inf, isqrt
from typing import NamedTuple

from planner.plan.vocabulary import OFFLOADS_FROM, ZERO_STAGE, Offload, Strategy, ZeroStage

OFFLOADS = tuple(OFFLOADS_FROM)


class Layout(NamedTuple):
    """One point of the search space. Says what to do, nothing about what it costs."""

    strategy: Strategy
    world_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    activation_checkpointing: bool
    checkpoint_every: int = 1
    """Of the layers, those whose number it divides are recomputed."""
    offload: Offload = "none"

    @property
    def checkpointing(self) -> int:
        """Every how many layers one is recomputed, 0 where none is."""
        return self.checkpoint_every if self.activation_checkpointing else 0

    @property
    def recomputed(self) -> str:
        """``every layer``, ``every 2nd layer``, or nothing where activations are kept."""
        if not self.activation_checkpointing:
            return ""
        nth = "" if self.checkpoint_every == 1 else f"{_nth(self.checkpoint_every)} "
        return f"every {nth}layer"

    @property
    def zero_stage(self) -> ZeroStage:
        return ZERO_STAGE[self.strategy]

    @property
    def moving_parts(self) -> tuple[int, int, bool]:
        """Sorts by what may go wrong: what is sharded, what is offloaded, what is recomputed."""
        return self.zero_stage, OFFLOADS.index(self.offload), self.activation_checkpointing

    @property
    def global_batch_size(self) -> int:
        return self.micro_batch_size * self.gradient_accumulation_steps * self.world_size


PARTIAL = (4, 2)
"""Between keeping all activations and recomputing all: every how many layers, fastest first."""


def recomputation_order(checkpointing: int) -> float:
    """Sorts by what is kept, the least first: all recomputed, every second layer, none.

    >>> sorted([0, 4, 1, 2], key=recomputation_order)
    [1, 2, 4, 0]
    """
    return checkpointing or inf


class Series(NamedTuple):
    """Layouts that differ in the micro-batch alone, the smallest first.

    Along it memory never falls and a step never takes longer, which is what a search needs to
    price few of them. So samples that are alone in their micro-batch, which need no padding and
    no mask, are a series of their own, and so is all of a step in one micro-batch, which no
    earlier gradients wait for.
    """

    strategy: Strategy
    world_size: int
    samples_per_rank: int
    micro_batch_sizes: tuple[int, ...]
    checkpointing: int
    """Every how many layers one is recomputed, 0 where none is."""
    offload: Offload = "none"

    @property
    def accumulates(self) -> bool:
        return self.micro_batch_sizes[-1] < self.samples_per_rank

    def layout(self, micro_batch_size: int) -> Layout:
        return Layout(
            strategy=self.strategy,
            world_size=self.world_size,
            micro_batch_size=micro_batch_size,
            gradient_accumulation_steps=self.samples_per_rank // micro_batch_size,
            activation_checkpointing=self.checkpointing > 0,
            checkpoint_every=self.checkpointing or 1,
            offload=self.offload,
        )


def _nth(number: int) -> str:
    """
    >>> [_nth(n) for n in (2, 3, 4, 11, 22)]
    ['2nd', '3rd', '4th', '11th', '22nd']
    """
    teens = number % 100 in (11, 12, 13)
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def divisors(number: int) -> tuple[int, ...]:
    """Ascending.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    low = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    high = [number // each for each in reversed(low) if each * each < number]
    return (*low, *high)


def strategies(world_size: int, offload: Offload) -> tuple[Strategy, ...]:
    """One device alone needs DeepSpeed only to offload, and no more of it than that."""
    if offload == "none":
        return ("single",) if world_size == 1 else ("ddp", "zero1", "zero2", "zero3")
    found = tuple(name for name, stage in ZERO_STAGE.items() if stage in OFFLOADS_FROM[offload])
    return found[:1] if world_size == 1 else found


def series(
    *,
    samples_per_rank: int,
    world_size: int,
    partial: Sequence[int] = PARTIAL,
    offload: Offload = "none",
) -> Iterator[Series]:
    """All layouts that give each rank exactly ``samples_per_rank`` samples a step; ``partial``
    says between what and what else activations may be kept and recomputed."""
    *accumulating, whole = divisors(samples_per_rank)
    groups = (tuple(accumulating[:1]), tuple(accumulating[1:]), (whole,))
    for strategy, sizes, checkpointing in product(
        strategies(world_size, offload), filter(None, groups), (0, *partial, 1)
    ):
        yield Series(
            strategy=strategy,
            world_size=world_size,
            samples_per_rank=samples_per_rank,
            micro_batch_sizes=sizes,
            checkpointing=checkpointing,
            offload=offload,
        )
