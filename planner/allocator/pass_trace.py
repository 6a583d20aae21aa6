"""One micro-batch as the allocator sees it: storages that come and go, each known by its number."""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from planner.forward.model_pass import ModelPass, PassedLayer
from planner.tape.tape import MATRIX_PRODUCTS, ProductKind, Tape
from planner.tape.tensors import RENAMED, Owner, Parameter, StorageEvent, Tensor
from planner.workload.dtypes import Numerics
from planner.workload.workload import Batch, Workload

Change = tuple[int, int]
"""Bytes that arrive, or leave where negative, and the number of their storage: the position at
which it arrives."""
NO_CHANGE: Change = 0, -1
"""What stands where a storage only passes to another owner."""


class _NotingTape(Tape):
    """A tape that also notes where cuBLAS multiplies, which is where its workspaces are made, where
    a gradient becomes a parameter's, and where the loss begins.

    read: aten/src/ATen/cuda/CublasHandlePool.cpp at 2.13, getCurrentCUDABlasHandle: a thread's
    handle gets its workspace when it is first asked for, which the product's output precedes. In
    backward what is alive by then stays below the workspace for good: where 16-bit logits have gone
    from there, those of the next step do not fit again, since the last hidden states are longer.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.products: list[int] = []
        """Positions in the log right after each product's output."""
        self.kept: list[tuple[int, int]] = []
        """Position at which each gradient is kept, and the identity of its storage."""
        self.reduced: list[int] = []
        """Positions at which gradients are reduced."""
        self.loss_position = 0

    def loss_begins(self) -> None:
        super().loss_begins()
        self.loss_position = len(self.log)

    def multiplies(
        self,
        flops: int,
        num_bytes: int,
        width: int,
        *,
        kind: ProductKind = "product",
        again: bool = False,
        length: int = 0,
        casts: int = 0,
    ) -> None:
        # bitsandbytes multiplies int8 by a handle of its own.
        if kind in MATRIX_PRODUCTS and width > 1:
            self.products.append(len(self.log) + 1 + casts)

    def _keep(self, gradient: Tensor, owner: Owner) -> None:
        super()._keep(gradient, owner)
        self.kept.append((len(self.log), id(self.kept_gradients[-1])))

    def _reduce(self, gradient: Tensor, owner: Owner) -> None:
        super()._reduce(gradient, owner)
        self.reduced.append(len(self.log))


class PassTrace(Struct, frozen=True):
    """One micro-batch that keeps its gradients or reduces them."""

    changes: list[Change]
    kept: dict[int, int]
    """Number of the storage of each gradient that is kept, by the position at which it is a
    parameter's."""
    first_gradient: int
    """Position at which the first gradient is there."""
    workspaces: tuple[int, int]
    """Positions at which cuBLAS makes its workspaces: forward's, and autograd's."""
    layers: list[int]
    """Positions at which the forward pass of each layer begins, and that of the last norm."""
    loss: int
    """Position at which the head begins, and with it the loss."""
    casts: list[int]
    """Positions at which autocast begins to drop the casts of each layer and of the head, and
    where it has."""
    passed: list[int]
    """Positions at which backward leaves the head and each layer, the last layer first."""
    weights: dict[str, Parameter]

    def added(self) -> Iterator[tuple[int, Change]]:
        """Yield the changes with their positions where gradients are added to earlier ones."""
        for position, change in enumerate(self.changes):
            if position in self.kept:
                number = self.kept[position]
                yield position, (-self.changes[number][0], number)
            yield position, change


def trace_of(
    workload: Workload,
    batch: Batch,
    numerics: Numerics,
    layers: Sequence[PassedLayer],
    *,
    bucket_size: int | None = None,
) -> PassTrace:
    """Return a micro-batch through these layers, whose gradients are kept, or reduced by way of
    buckets of so many elements."""
    run = ModelPass(
        workload,
        batch,
        numerics,
        layers=layers,
        sink="keep" if bucket_size is None else "reduce",
        reduce_bucket_size=bucket_size or 0,
        tape=_NotingTape,
    )
    tape = run.tape
    assert isinstance(tape, _NotingTape)
    changes, alive = numbered(tape.log)
    turn = run.casts_gone[-1]
    return PassTrace(
        changes=changes,
        kept={position: alive[identity] for position, identity in tape.kept},
        first_gradient=min([*tape.reduced, *(position for position, _ in tape.kept)]),
        workspaces=(tape.products[0], next(place for place in tape.products if place > turn)),
        layers=[position for _, position in tape.borders],
        loss=tape.loss_position,
        casts=run.casts_gone,
        passed=tape.passed,
        weights=run.weights,
    )


def numbered(log: Sequence[StorageEvent]) -> tuple[list[Change], dict[int, int]]:
    """Return the changes of a log, position by position, and the numbers of the storages that are
    alive at its end by their identity."""
    alive: dict[int, int] = {}
    changes: list[Change] = []
    for position, (num_bytes, _, identity, _) in enumerate(log):
        if identity == RENAMED:
            changes.append(NO_CHANGE)
        elif num_bytes > 0:
            alive[identity] = position
            changes.append((num_bytes, position))
        else:
            changes.append((num_bytes, alive.pop(identity)))
    return changes, alive
