"""PyTorch's autograd with sizes in the place of values: what is alive, when, and whose it is.

A forward pass written against :class:`Tape` reads like the module it mirrors. Storages come
and go with Python's own references, as they do under PyTorch, and every arrival and departure
is logged with its owner; a node keeps what its operator saves, and the backward pass runs
nodes from the last to the first. Nothing is computed but bytes.

read: torch/csrc/autograd/engine.cpp at 2.13: a node's inputs and outputs are alive together;
what it saved goes when it has run; then validate_outputs gives each gradient the shape and
dtype of what it is the gradient of; gradients that meet are added, in place where nobody else
holds the first. torch/csrc/autograd/functions/accumulate_grad.h: the first gradient of a
parameter is kept as it is, later ones are added to it.
"""

import weakref
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from sys import getrefcount
from typing import Literal

from planner.tensors import Backward, Event, Node, Owner, Parameter, Region, Storage, Tensor

GradientSink = Literal["keep", "add", "reduce"]
"""Where a parameter's gradient goes: it becomes the gradient; it is added to one that was
there before; DeepSpeed copies it into a bucket. The last two free it at once."""


class _RecomputedEnough(Exception):  # noqa: N818 - a signal, not an error
    """Ends a recomputation when all that backward needs is there again."""


class Tape:
    """One training step: the log of its storages, and the graph as it grows."""

    def __init__(self, *, sink: GradientSink) -> None:
        self.log: list[Event] = []
        self.kept_gradients: list[Storage] = []
        self.borders: list[tuple[int, int]] = []
        """Where each layer begins: the last node before it, and its place in the log."""
        self.passed: list[int] = []
        """Places in the log where backward left a layer, the last layer first."""
        self._sink = sink
        self._sequence = 0
        self._owner: Owner = "activations"
        self._loss_from = 0
        self._region: Region | None = None
        self._refilling = False
        self._cast_weights: dict[int, tuple[int, Tensor]] = {}

    def new(self, elements: int, width: int, name: str, owner: Owner | None = None) -> Tensor:
        storage = Storage(self.log, elements * width, owner or self._owner, name)
        return Tensor(elements, width, storage, None)

    def record(
        self,
        output: Tensor,
        inputs: tuple[Tensor, ...],
        saved: tuple[Tensor, ...],
        backward: Backward,
    ) -> Tensor:
        """Give ``output`` its node, if any input needs a gradient."""
        nodes = tuple(x.node for x in inputs)
        if not any(nodes):
            return output
        region = self._region
        if region is not None and self._refilling:
            return self._refill(region, output, Node(0, nodes, (), backward, unpacks=False), saved)
        self._sequence += 1
        shapes = tuple((x.elements, x.width) for x in inputs)
        node = Node(self._sequence, nodes, shapes, backward, unpacks=bool(saved))
        output.node = node
        if region is None:
            node.saved = _storages(saved)
        else:
            node.region = region
            region.nodes.append(weakref.ref(node))
            if node.unpacks:
                region.last_unpacking = len(region.nodes)
        return output

    def _refill(
        self, region: Region, output: Tensor, anew: Node, saved: tuple[Tensor, ...]
    ) -> Tensor:
        """Where nobody waits, ``anew`` holds what it saves for as long as its output is there."""
        node = _refill_next(region, saved)
        if node is None:
            anew.saved = _storages(saved)
        output.node = node or anew
        if region.refilled == region.last_unpacking:
            raise _RecomputedEnough
        return output

    def packs(self, saved: tuple[Tensor, ...]) -> None:
        """Inputs are saved before an operator runs: the last of a recomputation never does."""
        region = self._region
        if region is None or not self._refilling or not saved:
            return
        if region.refilled == region.last_unpacking - 1:
            _refill_next(region, saved)
            raise _RecomputedEnough

    def checkpoint(self, run: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Run a region that keeps its input only; backward runs it again."""
        region = Region(run, given.viewed())
        self._region = region
        output = run(given)
        self._region = None
        return output

    def _recompute(self, region: Region) -> None:
        self._region, self._refilling = region, True
        with suppress(_RecomputedEnough):
            region.run(region.given.viewed())
        self._region, self._refilling = None, False
        self.autocast_ends()
        region.nodes = []

    def loss_begins(self) -> None:
        """From here on, and in backward until here again, what is made belongs to the loss."""
        self._owner = "loss"
        self._loss_from = self._sequence

    def cast_once(self, weight: Tensor, cast: Callable[[Tensor], Tensor]) -> Tensor:
        """Autocast's 16-bit copy of an fp32 leaf, kept until autocast ends."""
        key = id(weight)
        if key not in self._cast_weights:
            self._cast_weights[key] = len(self.borders), cast(weight)
        return self._cast_weights[key][1]

    def autocast_ends(self) -> list[int]:
        """Drop the copies; the places in the log where those of each layer are gone."""
        places = []
        for layer in range(len(self.borders) + 1):
            made_here = [key for key, (made, _) in self._cast_weights.items() if made == layer]
            for key in made_here:
                del self._cast_weights[key]
            places.append(len(self.log))
        return places

    def border(self) -> None:
        """A layer begins: here in forward, and in backward where its nodes end."""
        self.borders.append((self._sequence, len(self.log)))

    def backward(self, output: Tensor, gradient: Tensor) -> None:
        """From ``output`` to every parameter; frees the graph behind it.

        What the caller still holds stays alive, as logits do in a loop that names them.
        """
        root = output.node
        assert isinstance(root, Node)
        output.node = None
        _count_uses(root)
        arrived: dict[int, Tensor] = {id(root): gradient}
        queue: list[tuple[int, Node]] = [(-root.sequence, root)]
        waiting = [sequence for sequence, _ in self.borders]
        del root, gradient
        while queue:
            _, node = heappop(queue)
            if node.sequence <= self._loss_from:
                self._owner = "activations"
            while waiting and node.sequence <= waiting[-1]:
                waiting.pop()
                self.passed.append(len(self.log))
            self._differentiate(node, arrived, queue)
            del node
        self.passed += [len(self.log)] * len(waiting)

    def _differentiate(
        self, node: Node, arrived: dict[int, Tensor], queue: list[tuple[int, Node]]
    ) -> None:
        region = node.region
        if region is not None and node.unpacks and not region.refilled:
            self._recompute(region)
        node.region = region = None
        incoming = arrived.pop(id(node))
        outgoing = list(node.backward(incoming))
        node.saved = []
        self._validate(outgoing, node)
        del incoming
        for position, edge in enumerate(node.inputs):
            made, outgoing[position] = outgoing[position], None
            if edge is None or made is None:
                continue
            if id(edge) in arrived:
                self._join(arrived, id(edge))
            else:
                arrived[id(edge)] = made
                if isinstance(edge, Node):
                    heappush(queue, (-edge.sequence, edge))
            del made
            if isinstance(edge, Parameter):
                self._accumulate(edge, arrived)

    def _validate(self, outgoing: list[Tensor | None], node: Node) -> None:
        """Each gradient in its input's own shape and dtype."""
        for position, (elements, width) in enumerate(node.shapes):
            made = outgoing[position]
            if made is None or (made.elements, made.width) == (elements, width):
                continue
            outgoing[position] = self.new(elements, width, "gradient reduced, or cast")
            del made

    def _join(self, arrived: dict[int, Tensor], key: int) -> None:
        """Gradients of one tensor from two consumers: in place if nobody else holds the first."""
        old = arrived[key]
        held_by_the_tensor_and_this_call = 2
        assert old.storage is not None
        shared = getrefcount(old.storage) > held_by_the_tensor_and_this_call
        if shared or old.storage.held_by_python:
            arrived[key] = self.new(old.elements, old.width, "sum of gradients")

    def _accumulate(self, leaf: Parameter, arrived: dict[int, Tensor]) -> None:
        """Keep a leaf's gradient when all of its uses have sent theirs."""
        leaf.uses -= 1
        if leaf.uses:
            return
        gradient = arrived.pop(id(leaf))
        if self._sink != "keep":
            return
        storage = gradient.storage
        assert storage is not None
        held_by_the_tensor_and_this_function = 3
        if getrefcount(storage) > held_by_the_tensor_and_this_function:
            copy = self.new(gradient.elements, gradient.width, "gradient", leaf.gradient_owner)
            assert copy.storage is not None
            storage = copy.storage
        else:
            storage.passes_to(leaf.gradient_owner)
        self.kept_gradients.append(storage)


def _count_uses(root: Node) -> None:
    """How many gradients every leaf behind ``root`` will get; what was detached sends none."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for edge in node.inputs:
            if isinstance(edge, Parameter):
                edge.uses += 1
            elif edge is not None:
                waiting.append(edge)


def _refill_next(region: Region, saved: tuple[Tensor, ...]) -> Node | None:
    """The next node that waits gets its tensors, if it is there."""
    node = region.nodes[region.refilled]()
    region.refilled += 1
    if node is not None:
        node.saved = _storages(saved)
    return node


def _storages(tensors: tuple[Tensor, ...]) -> list[Storage]:
    return [x.storage for x in tensors if x.storage is not None]


def saved_since(output: Tensor, sequence: int) -> list[Storage]:
    """Every storage that nodes after ``sequence`` keep for backward, each once."""
    found: dict[int, Storage] = {}
    seen: set[int] = set()
    waiting = [output.node]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Node) or node.sequence <= sequence or id(node) in seen:
            continue
        seen.add(id(node))
        found |= {id(storage): storage for storage in node.saved}
        waiting += node.inputs
    return list(found.values())
