"""The kernels of one micro-batch, with the operations and bytes of each, from the tape that mirrors
a pass.

A tensor that an operator makes is one kernel, which writes it. What it reads: in forward the
operator's inputs, in backward the gradient that comes in and what the node saved. Products (linear
layers, attention, the head) state their own operations and bytes.

Source: Williams, Waterman, Patterson, "Roofline", doi:10.1145/1498765.1498785: a kernel takes as
long as the slower of its operations and its bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

from msgspec import Struct, structs

from planner.base.units import FP32_BYTES
from planner.tape.tape import GradientSink, ProductKind, RunAgain, Tape
from planner.tape.tensors import RENAMED, Backward, Node, Owner, Region, Storage, Tensor

KernelPhase = Literal["forward", "backward", "recompute"]
KernelKind = (
    ProductKind
    | Literal["elementwise", "exponential", "random", "dequantize", "host copy"]
    | Literal["all-reduce", "all-gather"]
)
"""Kind of a kernel. Those after the products move data: ``exponential`` computes one for every
element, ``random`` draws its numbers; a device may be slower at both than at moving. ``host copy``
moves it between the device and pinned memory of the host; ``all-reduce`` and ``all-gather`` between
ranks, by as many bytes as the result has."""


class Kernel(Struct, frozen=True):
    """One launch of a kernel, or several that are alike."""

    phase: KernelPhase
    kind: KernelKind
    width: int
    """Bytes per element of a product's operands."""
    flops: int
    num_bytes: int
    """Bytes that are read and written."""
    made: int = 0
    """Bytes of the storage that it makes; 0 where it writes to an older one."""
    kept: bool = False
    """Whether that storage is alive when backward begins."""
    length: int = 0
    """Tokens of each sequence that attention reads; 0 for all other kernels."""
    times: int = 1
    """Number of launches that are alike."""


class _Announced(Struct, frozen=True):
    """What an operator has stated of the kernel that it is about to launch."""

    kind: KernelKind
    flops: int
    num_bytes: int
    width: int
    again: bool = False
    length: int = 0


class CountingTape(Tape):
    """A tape that also lists its kernels, each with its position in the log."""

    _again: Mapping[KernelPhase, KernelPhase] = {"forward": "forward", "backward": "recompute"}
    """Phase in which a checkpointed part runs again, by the phase that triggers it."""

    def __init__(
        self,
        *,
        sink: GradientSink,
        reduce_bucket_size: int = 0,
        fp16: bool = False,
        without_graph: bool = False,
    ) -> None:
        super().__init__(
            sink=sink,
            reduce_bucket_size=reduce_bucket_size,
            fp16=fp16,
            without_graph=without_graph,
        )
        self.kernels: list[Kernel] = []
        self.places: list[int] = []
        self._phase: KernelPhase = "forward"
        self._announced: _Announced | None = None
        self._exponentiates = False
        self._filled_in_steps = False
        self._times = 1
        self._unread: list[int] = []
        """Indices of kernels of which it is not known yet what they read."""

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
        self._announced = _Announced(kind, flops, num_bytes, width, again, length)

    def dequantizes(self, num_bytes: int) -> None:
        self._announced = _Announced("dequantize", 0, num_bytes, 1)

    def draws(self, elements: int, width: int) -> None:
        self._announced = _Announced("random", 0, elements * width, width)

    def goes_to_host(self, num_bytes: int) -> None:
        self._launch(_Announced("host copy", 0, num_bytes, 1), 0)

    def comes_from_host(self, num_bytes: int) -> None:
        self._announced = _Announced("host copy", 0, num_bytes, 1)

    def comes_from_ranks(self) -> None:
        self._announced = _Announced("elementwise", 0, 0, 1)

    def reduces(self, num_bytes: int) -> None:
        self._announced = _Announced("all-reduce", 0, num_bytes, 1)

    def gathers(self, num_bytes: int) -> None:
        self._announced = _Announced("all-gather", 0, num_bytes, 1)

    def exponentiates(self) -> None:
        self._exponentiates = True

    def fills_in_steps(self) -> None:
        self._filled_in_steps = True

    @contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        before, self._times = self._times, times
        try:
            yield
        finally:
            self._times = before

    def passes_over(self, num_bytes: int, made: int = 0) -> None:
        self._launch(self._announced or self._moving(num_bytes, FP32_BYTES), made)

    def new(self, elements: int, width: int, name: str, owner: Owner | None = None) -> Tensor:
        if self._filled_in_steps:
            self._filled_in_steps = False
            return super().new(elements, width, name, owner)
        if self._announced is None:
            self._unread.append(len(self.kernels))
        made = elements * width
        self._launch(self._announced or self._moving(made, width), made)
        return super().new(elements, width, name, owner)

    def _moving(self, num_bytes: int, width: int) -> _Announced:
        kind: KernelKind = "exponential" if self._exponentiates else "elementwise"
        self._exponentiates = False
        return _Announced(kind, 0, num_bytes, width)

    def _launch(self, announced: _Announced, made: int) -> None:
        self._announced = None
        self.places.append(len(self.log))
        self.kernels.append(
            Kernel(
                "recompute" if announced.again else self._phase,
                announced.kind,
                announced.width,
                announced.flops,
                announced.num_bytes,
                made,
                False,
                announced.length,
                self._times,
            )
        )

    def with_kept(self, turn: int) -> list[Kernel]:
        """Return the kernels, with what is alive at position ``turn`` of the log marked as
        kept."""
        alive: dict[int, int] = {}
        for place, (size, _, storage, _) in enumerate(self.log[:turn]):
            if storage != RENAMED:
                if size >= 0:
                    alive[storage] = place
                else:
                    alive.pop(storage, None)
        kept = set(alive.values())
        return [
            structs.replace(kernel, kept=True) if place in kept and kernel.made else kernel
            for kernel, place in zip(self.kernels, self.places, strict=True)
        ]

    def _read(self, per_kernel: int, shared: int) -> None:
        """Add what the kernels since the last reading have read."""
        if not self._unread:
            return
        each = per_kernel + shared // len(self._unread)
        for number in self._unread:
            kernel = self.kernels[number]
            structs.force_setattr(kernel, "num_bytes", kernel.num_bytes + each)  # nobody has it yet
        self._unread.clear()

    def record(
        self,
        output: Tensor,
        inputs: tuple[Tensor, ...],
        saved: tuple[Tensor, ...],
        backward: Backward,
    ) -> Tensor:
        self._read(0, sum(x.elements * x.width for x in inputs))
        if self._times > 1:
            backward = partial(self._repeated_gradients, backward, self._times)
        return super().record(output, inputs, saved, backward)

    def _repeated_gradients(
        self, backward: Backward, times: int, gradient: Tensor
    ) -> Sequence[Tensor | None]:
        with self.repeated(times):
            return backward(gradient)

    def backward(self, output: Tensor, gradient: Tensor) -> None:
        self._unread.clear()
        self._phase = "backward"
        super().backward(output, gradient)

    def checkpoint_reentrant(
        self, run: RunAgain, *given: Tensor, offloaded: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        def timed(*inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            before, self._phase = self._phase, self._again[self._phase]
            made = run(*inputs)
            self._phase = before
            return made

        return super().checkpoint_reentrant(timed, *given, offloaded=offloaded)

    def _recompute(self, region: Region) -> None:
        before, self._phase = self._phase, "recompute"
        super()._recompute(region)
        self._phase = before
        self._unread.clear()

    def _gradients(self, node: Node, incoming: Tensor) -> list[Tensor | None]:
        make, arriving = node.backward, incoming.elements * incoming.width

        def counted(gradient: Tensor) -> list[Tensor | None]:
            self._unread.clear()
            made = list(make(gradient))
            self._read(arriving, _bytes_of(node.saved))
            return made

        node.backward = counted
        outgoing = super()._gradients(node, incoming)
        node.backward = make  # or the node would hold itself, and all that it was made of
        return outgoing


def _bytes_of(saved: list[Storage]) -> int:
    return sum(storage.num_bytes for storage in saved)
