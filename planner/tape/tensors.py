"""Storages that come and go with Python's own references, tensors that view them, and the nodes of
the graph behind them."""

import weakref
from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import Literal

from msgspec import Struct

from planner.base.units import ALLOCATOR_BLOCK_BYTES

Owner = Literal["activations", "loss", "gradients", "workspace"]
StorageEvent = tuple[int, Owner, int, str]
"""Bytes that arrive, or leave where negative; their owner; the storage's identity, or ``RENAMED``;
and its name."""
RENAMED = 0
"""Identity in the two events of a storage that passes to another owner."""


class Storage(Struct, eq=False):
    """Bytes that are alive as long as something holds this object."""

    log: list[StorageEvent]
    num_bytes: int
    block_bytes: int
    """The same in whole blocks; none where there are no bytes, and then it is in no log."""
    owner: Owner
    name: str

    def __del__(self) -> None:
        taken = self.block_bytes
        if taken:
            self.log.append((-taken, self.owner, id(self), self.name))

    def passes_to(self, owner: Owner) -> None:
        """Give the same bytes to another owner."""
        self.log += [
            (-self.block_bytes, self.owner, RENAMED, self.name),
            (self.block_bytes, owner, RENAMED, self.name),
        ]
        self.owner = owner


def allocated(log: list[StorageEvent], num_bytes: int, owner: Owner, name: str) -> Storage:
    """Return a new storage, whose arrival is logged."""
    taken = -(-num_bytes // ALLOCATOR_BLOCK_BYTES) * ALLOCATOR_BLOCK_BYTES
    storage = Storage(log, num_bytes, taken, owner, name)
    if taken:
        log.append((taken, owner, id(storage), name))
    return storage


class Tensor(Struct, eq=False):
    """A view of a storage. Without a node it needs no gradient."""

    elements: int
    width: int
    """Bytes per element."""
    storage: Storage | None = None
    """Storage of its bytes; None for a parameter, whose bytes are counted as model states."""
    node: "Node | Parameter | None" = None

    def viewed(self, elements: int | None = None) -> "Tensor":
        """Return another view of the same storage; a view's own node takes no bytes."""
        return Tensor(
            self.elements if elements is None else elements, self.width, self.storage, self.node
        )

    def detached(self) -> "Tensor":
        """Return a view that needs no gradient."""
        return Tensor(self.elements, self.width, self.storage, None)


HELD_ONCE = Tensor(1, 1, allocated([], 1, "workspace", "held by one tensor"), None)
"""A tensor whose storage nothing else holds: the measure of :func:`held_elsewhere`."""


def held_elsewhere(tensor: Tensor) -> bool:
    """Return whether anything but ``tensor`` holds its storage, which must not be None.

    CPython's count includes references that the question itself takes, and how many those are
    differs between its versions (since 3.14 an argument may be borrowed). So the same question is
    asked of a storage with one known holder.
    """
    return getrefcount(tensor.storage) > getrefcount(HELD_ONCE.storage)


class Parameter(Tensor, eq=False, kw_only=True):
    """A leaf. A weight's bytes are model states; where it trains its gradient is kept."""

    trains: bool
    gradient_owner: Owner = "gradients"
    uses: int = 0
    """Number of gradients still to come: a tied weight's two meet before they are kept."""

    def __post_init__(self) -> None:
        if self.trains:
            self.node = self


Backward = Callable[[Tensor], Sequence[Tensor | None]]
"""How a node makes the gradients of its inputs from the incoming one."""


class Node(Struct, eq=False, weakref=True):
    """One operator of the graph: what it saved, and how it makes its inputs' gradients."""

    sequence: int
    inputs: tuple["Node | Parameter | None", ...]
    shapes: tuple[tuple[int, int], ...]
    """Elements and bytes per element of each input, and so of its gradient."""
    backward: Backward
    unpacks: bool
    """Whether it saved anything, a weight included."""
    saved: list[Storage] = []
    in_context: bool = False
    """Whether the context of an autograd.Function in Python holds what it saved, until the graph is
    gone."""
    sums_rows: bool = False
    """Whether the gradient of a smaller input is the sum over all rows, by a CUDA kernel."""
    region: "Region | None" = None


class RegionInput:
    """A tensor that a checkpointed part is given, as it is found again when that part runs again.

    It is held until then, or, where it is offloaded, waits in host memory and is copied back: what
    the device then has is gone with the last that holds it.

    read: torch/autograd/graph.py at 2.13, save_on_cpu, under which transformers/modeling_utils.py
    at 5.23, _activation_checkpointing_enable, has torch/utils/checkpoint.py save its inputs.
    """

    __slots__ = ("elements", "kept", "node", "width")

    def __init__(self, given: Tensor, *, offloaded: bool) -> None:
        self.node = given.node
        self.elements, self.width = given.elements, given.width
        self.kept = None if offloaded else given.detached()


class Region:
    """A checkpointed part of a model: its inputs, and the nodes whose saved tensors it recomputes.

    read: torch/utils/checkpoint.py at 2.13, non-reentrant: the first node that unpacks has the
    region run again, which ends at the last tensor that was saved. A node that is gone, since its
    output was detached, still counts, but gets no tensor back.
    """

    __slots__ = ("given", "inputs_node", "nodes", "outside", "refilled", "run")

    def __init__(self, run: Callable[..., Tensor], given: Sequence[RegionInput]) -> None:
        self.run = run
        self.given = given
        self.nodes: list[weakref.ref[Node]] = []
        self.refilled = 0
        self.outside: Region | None = None
        self.inputs_node: Node | None = None

    def waits_for(self, outside: "Region") -> None:
        """Keep no inputs, but have the region outside find them again: a node of that one saves
        them."""
        for each in self.given:
            each.kept = None
        self.outside = outside
        self.inputs_node = Node(0, (), (), lambda _: (), True)
        outside.nodes.append(weakref.ref(self.inputs_node))

    def inputs(self) -> Sequence[RegionInput]:
        """Return the inputs, which the region outside hands out once."""
        node, given = self.inputs_node, self.given
        if node is None:
            return given
        for each, storage in zip(given, node.saved, strict=True):
            each.kept = Tensor(each.elements, each.width, storage, None)
        node.saved = []
        self.given = ()
        return given

    def refill(self, saved: tuple[Tensor, ...]) -> Node | None:
        """Give the next waiting node its tensors and return it; None if it is gone."""
        node = self.nodes[self.refilled]()
        self.refilled += 1
        if node is not None:
            node.saved = storages(saved)
        return node


Arrived = dict[Node | Parameter, Tensor]
"""Gradients that wait for their node."""
Queue = list[tuple[int, Node]]
"""Nodes to differentiate, the last one first."""


def begin(output: Tensor, gradient: Tensor) -> tuple[Arrived, Queue]:
    """Return the gradient and the node that backward starts with."""
    root = output.node
    assert isinstance(root, Node)
    output.node = None
    count_uses(root)
    return {root: gradient}, [(-root.sequence, root)]


def storages(tensors: tuple[Tensor, ...]) -> list[Storage]:
    """Return the tensors' storages; parameters have none."""
    return [x.storage for x in tensors if x.storage is not None]


def count_uses(root: Node) -> None:
    """Count how many gradients every leaf behind ``root`` will get; what was detached sends
    none."""
    seen = {root}
    waiting = [root]
    for node in waiting:
        for edge in node.inputs:
            if edge is None or edge in seen:
                continue
            if isinstance(edge, Node):
                seen.add(edge)
                waiting.append(edge)
            else:
                edge.uses += 1
