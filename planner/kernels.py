"""The kernels of one micro-batch: operations and bytes of each, from the tape that mirrors a pass.

A tensor that an operator makes is one kernel, which writes it. What it reads: in forward the
operator's inputs, in backward the gradient that comes in and what the node saved. Products
(linear layers, attention, the head) say their own operations and bytes.

Source: Williams, Waterman, Patterson, "Roofline", doi:10.1145/1498765.1498785: a kernel takes as
long as the slower of its operations and its bytes.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from planner.autograd import Tape
from planner.layer_kinds import LayerKind
from planner.model_pass import ModelPass, PassedLayer
from planner.numerics import Numerics
from planner.recipe import Batch, Workload
from planner.tensors import Backward, Node, Owner, Storage, Tensor

Phase = Literal["forward", "backward", "recompute"]
Kind = Literal["product", "elementwise", "dequantize"]


class Kernel(NamedTuple):
    """One launch."""

    phase: Phase
    kind: Kind
    owner: Owner
    width: int
    """Bytes per element: of a product's operands."""
    flops: int
    num_bytes: int
    """Read and written."""


class CountingTape(Tape):
    """A tape that also lists its kernels, each with its place in the log."""

    _again: Mapping[Phase, Phase] = {"forward": "forward", "backward": "recompute"}
    """In which phase a checkpointed part runs that is run in another."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.kernels: list[Kernel] = []
        self.places: list[int] = []
        self._phase: Phase = "forward"
        self._next: tuple[Kind, int, int, int] | None = None
        """Kind, operations, bytes and width of a kernel that is about to be launched."""
        self._unread: list[int] = []
        """Kernels of which it is not known yet what they read."""

    def multiplies(self, flops: int, num_bytes: int, width: int) -> None:
        self._next = ("product", flops, num_bytes, width)

    def dequantizes(self, num_bytes: int) -> None:
        self._next = ("dequantize", 0, num_bytes, 1)

    def passes_over(self, num_bytes: int) -> None:
        kind, flops, own, width = self._next or ("elementwise", 0, num_bytes, 1)
        self._next = None
        self._launch(kind, flops, own, width, self._owner)

    def new(self, elements: int, width: int, name: str, owner: Owner | None = None) -> Tensor:
        whose = owner or self._owner
        if self._next is None:
            self._unread.append(len(self.kernels))
            self._launch("elementwise", 0, elements * width, width, whose)
        else:
            kind, flops, num_bytes, operands = self._next
            self._next = None
            self._launch(kind, flops, num_bytes, operands, whose)
        return super().new(elements, width, name, owner)

    def _launch(self, kind: Kind, flops: int, num_bytes: int, width: int, owner: Owner) -> None:
        self.places.append(len(self.log))
        self.kernels.append(Kernel(self._phase, kind, owner, width, flops, num_bytes))

    def _read(self, per_kernel: int, shared: int) -> None:
        """What the kernels since the last reading have read."""
        if not self._unread:
            return
        each = per_kernel + shared // len(self._unread)
        for number in self._unread:
            kernel = self.kernels[number]
            self.kernels[number] = kernel._replace(num_bytes=kernel.num_bytes + each)
        self._unread.clear()

    def record(
        self,
        output: Tensor,
        inputs: tuple[Tensor, ...],
        saved: tuple[Tensor, ...],
        backward: Backward,
    ) -> Tensor:
        self._read(0, sum(x.elements * x.width for x in inputs))
        return super().record(output, inputs, saved, backward)

    def backward(self, output: Tensor, gradient: Tensor) -> None:
        self._unread.clear()
        self._phase = "backward"
        super().backward(output, gradient)

    def checkpoint_reentrant(self, run: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        def timed(x: Tensor) -> Tensor:
            before, self._phase = self._phase, self._again[self._phase]
            output = run(x)
            self._phase = before
            return output

        return super().checkpoint_reentrant(timed, given)

    def _recompute(self, region: object) -> None:
        self._phase = "recompute"
        super()._recompute(region)  # type: ignore[arg-type]
        self._phase = "backward"
        self._unread.clear()

    def _gradients(self, node: Node, incoming: Tensor) -> list[Tensor | None]:
        make, arriving = node.backward, incoming.elements * incoming.width

        def counted(gradient: Tensor) -> list[Tensor | None]:
            self._unread.clear()
            made = list(make(gradient))
            self._read(arriving, _bytes_of(node.saved))
            return made

        node.backward = counted
        return super()._gradients(node, incoming)


def _bytes_of(saved: list[Storage]) -> int:
    return sum(storage.num_bytes for storage in saved)
