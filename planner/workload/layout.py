"""How a workload is laid out on a cluster, and every layout there is."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import inf, isqrt

from msgspec import Struct

from planner.base.phrases import Phrase
from planner.plan.vocabulary import (
    OFFLOADS_WITH,
    SHARDS_NOTHING,
    SHARDS_PARAMETERS,
    SHARES_SAMPLES,
    ZERO_STAGE,
    Offload,
    Strategy,
    ZeroStage,
    data_ranks,
)

OFFLOADS = tuple(OFFLOADS_WITH)
"""Kinds of offload, from none to all."""
STRATEGIES = tuple(ZERO_STAGE)
"""All strategies, the simplest first."""
OVER_SAMPLES = tuple(each for each in STRATEGIES[1:] if each not in SHARES_SAMPLES)
"""The strategies of several ranks that are searched unasked: each rank has samples of its own."""


Sharding = tuple[Strategy, int]
"""A strategy, and how often the whole of the parameters exists over all ranks: what decides which
ranks share which states."""


class Layout(Struct, frozen=True):
    """One way to distribute a training step: what to do, not what it costs."""

    strategy: Strategy
    world_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    """Number of micro-batches per optimizer step."""
    activation_checkpointing: bool
    checkpoint_every: int = 1
    """Interval of recomputation: layers whose number it divides are recomputed."""
    offload: Offload = "none"
    copies: int = 1
    """How often the whole of the parameters exists over all ranks that shard them."""
    sequence_ranks: int = 1
    """Number of ranks that share one sequence."""

    @property
    def shard_ranks(self) -> int:
        """Number of ranks that share one copy of what is sharded; 1 where layers are cut
        instead."""
        return (1 if self.strategy in SHARES_SAMPLES else self.world_size) // self.copies

    @property
    def num_communicators(self) -> int:
        """Number of groups that a rank communicates in: all ranks; with several copies those of its
        copy, and those that have the same part of each, too; where ranks share sequences those of
        its sequence, and all ranks once more, over which states are shared.

        read: deepspeed/runtime/sequence_parallel/parallel_state_sp.py at 0.19.8,
        initialize_sequence_parallel.
        """
        return 1 if self.copies == self.sequence_ranks == 1 else 3

    @property
    def sharding(self) -> Sharding:
        """Strategy and copies."""
        return self.strategy, self.copies

    @property
    def checkpointing(self) -> int:
        """Interval of recomputation in layers; 0 where no layer is recomputed."""
        return self.checkpoint_every if self.activation_checkpointing else 0

    @property
    def recomputed(self) -> str:
        """Words for what is recomputed: ``every layer``, ``every 2nd layer``, or ``""`` for
        none."""
        if not self.activation_checkpointing:
            return ""
        if self.checkpoint_every == 1:
            return Phrase("every layer")
        return Phrase("every {nth} layer", nth=nth(self.checkpoint_every))

    @property
    def zero_stage(self) -> ZeroStage:
        """DeepSpeed's ZeRO stage; 0 without DeepSpeed."""
        return ZERO_STAGE[self.strategy]

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has a part of some states alone."""
        return self.strategy not in SHARDS_NOTHING

    @property
    def shards_parameters(self) -> bool:
        """Whether each rank has a part of every parameter alone."""
        return self.strategy in SHARDS_PARAMETERS

    @property
    def moving_parts(self) -> tuple[int, int, int, bool]:
        """Sort key by what may go wrong: what is sharded, over which ranks, what is offloaded, what
        is recomputed."""
        return (
            STRATEGIES.index(self.strategy),
            self.copies,
            OFFLOADS.index(self.offload),
            self.activation_checkpointing,
        )

    @property
    def data_ranks(self) -> int:
        """Number of ranks, or of groups that share one sequence, with samples of their own."""
        return data_ranks(self.strategy, self.world_size, self.sequence_ranks)

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step over all ranks."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_ranks


PARTIAL = (4, 2)
"""Intervals of recomputation between none and every layer, the fastest first."""


def recomputation_order(checkpointing: int) -> float:
    """Return a sort key by what is kept, the least first: all recomputed, every second layer, none.

    >>> sorted([0, 4, 1, 2], key=recomputation_order)
    [1, 2, 4, 0]
    """
    return checkpointing or inf


class Series(Struct, frozen=True):
    """Layouts that differ only in the micro-batch size, the smallest first.

    Along it memory never falls and a step never takes longer, so that a search prices few of them.
    Samples that are alone in their micro-batch need no padding and no mask, and a micro-batch that
    is all of a step follows no earlier gradients: each of these is a series of its own.
    """

    strategy: Strategy
    world_size: int
    samples_per_rank: int
    micro_batch_sizes: tuple[int, ...]
    checkpointing: int
    """Interval of recomputation in layers; 0 where no layer is recomputed."""
    offload: Offload = "none"
    copies: int = 1
    """How often the whole of the parameters exists over all ranks that shard them."""

    @property
    def sharding(self) -> Sharding:
        """Strategy and copies."""
        return self.strategy, self.copies

    sequence_ranks: int = 1

    @property
    def accumulates(self) -> bool:
        """Whether a step has several micro-batches."""
        return self.micro_batch_sizes[-1] < self.samples_per_rank

    def layout(self, micro_batch_size: int) -> Layout:
        """Return the layout with this micro-batch size, which must divide ``samples_per_rank``."""
        return Layout(
            strategy=self.strategy,
            world_size=self.world_size,
            micro_batch_size=micro_batch_size,
            gradient_accumulation_steps=self.samples_per_rank // micro_batch_size,
            activation_checkpointing=self.checkpointing > 0,
            checkpoint_every=self.checkpointing or 1,
            offload=self.offload,
            copies=self.copies,
            sequence_ranks=self.sequence_ranks,
        )


def nth(number: int) -> Phrase:
    """Return an ordinal number.

    >>> [nth(n) for n in (2, 3, 4, 11, 22)]
    ['2nd', '3rd', '4th', '11th', '22nd']
    """
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    if last == 1:
        return Phrase("{number}st", number=number)
    if last == 2:
        return Phrase("{number}nd", number=number)
    if last == 3:
        return Phrase("{number}rd", number=number)
    return Phrase("{number}th", number=number)


def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a positive number, ascending.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    low = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    high = [number // each for each in reversed(low) if each * each < number]
    return (*low, *high)


def strategies(world_size: int, offload: Offload) -> tuple[Strategy, ...]:
    """Return the strategies for so many ranks with samples of their own; a single device needs
    DeepSpeed only to offload, and then the lowest stage that can."""
    if offload == "none":
        return STRATEGIES[:1] if world_size == 1 else OVER_SAMPLES
    found = OFFLOADS_WITH[offload]
    return found[:1] if world_size == 1 else found


def shardings(world_size: int, offload: Offload, num_nodes: int = 1) -> Iterator[Sharding]:
    """Yield the strategies, each with the copies that it may have: FSDP one over all ranks, or one
    on each of several nodes.

    >>> list(shardings(8, "all", num_nodes=2))
    [('zero3', 1), ('fsdp', 1), ('fsdp', 2)]
    """
    for strategy in strategies(world_size, offload):
        yield strategy, 1
        if strategy == "fsdp" and 1 < num_nodes < world_size:
            yield strategy, num_nodes


def series(
    *,
    samples_per_rank: int,
    world_size: int,
    num_nodes: int = 1,
    partial: Sequence[int] = PARTIAL,
    offload: Offload = "none",
    sequence_ranks: int = 1,
    among: Sequence[Strategy] | None = None,
) -> Iterator[Series]:
    """Yield all series in which each rank has exactly ``samples_per_rank`` samples per step, alone
    or with the other ``sequence_ranks`` that share them, of the strategies ``among`` which the
    choice is, or of all that are searched unasked.

    ``partial`` are the intervals of recomputation that are tried beside none and every layer.
    """
    *accumulating, whole = divisors(samples_per_rank)
    groups = (tuple(accumulating[:1]), tuple(accumulating[1:]), (whole,))
    found = tuple(
        shardings(world_size, offload, num_nodes)
        if among is None
        else ((each, 1) for each in among)
    )
    for (strategy, copies), sizes, checkpointing in product(
        found, filter(None, groups), (0, *partial, 1)
    ):
        yield Series(
            strategy=strategy,
            world_size=world_size,
            samples_per_rank=samples_per_rank,
            micro_batch_sizes=sizes,
            checkpointing=checkpointing,
            offload=offload,
            copies=copies,
            sequence_ranks=sequence_ranks,
        )
