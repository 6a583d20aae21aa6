"""A tracer that cuts a micro-batch at the borders of its layers: what each stretch adds to the live
bytes."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any, Literal, NamedTuple

import torch

from launcher.compat.torch import storage_id
from launcher.rehearsal.tracer import TooLongError, Tracer
from planner.base.phrases import Phrase

LOOPED_OPERATORS = 8
"""Operators per token in one layer's forward pass from which on a loop runs over every token."""
MOST_LOOPED = 4_000
"""Operators of such a loop that are traced: a plan needs several traces of several layers, and all
of them are a few seconds of processor time then."""
Amounts = Counter[str]
"""Bytes by part; may be negative."""
Border = int | Literal["before", "head", "end"]
"""Where a stretch begins: before the layers, at a layer, behind the last of them for the n-th time
(-n), or when the model returns; in backward at the head."""


class Stretch(NamedTuple):
    """What one stretch of a step adds to the live bytes."""

    top: Amounts
    """Bytes that are added at the largest moment."""
    net: Amounts
    """Bytes that are added by the end."""
    freed: Mapping[Border | None, Amounts]
    """Bytes that it frees, by the stretch of their allocation."""

    def without(self, *borders: Border | None) -> "Stretch":
        """Return the same, had it freed nothing that was allocated in those stretches."""
        net = self.net.copy()
        for border in borders:
            net.update(self.freed.get(border, {}))
        return self._replace(net=net)


class NotPeriodicError(Exception):
    """Layers of one kind do not take the same bytes, or are not passed one by one."""


class StretchTracer(Tracer):  # type: ignore[no-untyped-call]
    """A tracer that cuts forward and backward where it is told to.

    ``TooLongError`` is raised where a layer loops over ``tokens``, which are too many for that.
    """

    def __init__(
        self,
        rules: Any = None,
        *,
        tokens: int,
        left_out: Collection[str] = (),
        until_s: float = inf,
    ) -> None:
        super().__init__(rules, left_out=left_out, until_s=until_s)
        self._tokens = tokens
        self._num_operators = 0
        self.stretches: dict[str, dict[Border, Stretch]] = {"forward": {}, "backward": {}}
        """Stretches by phase and by where they begin, in their order."""
        self._cut_phase: str | None = None
        self._border: Border | None = None
        self._begin = Amounts()
        self._top = Amounts()
        self._top_bytes = -1
        self._born: dict[int, Border | None] = {}
        self._freed: dict[Border | None, Amounts] = {}

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        """Begin the first stretch with forward and with backward; forward ends where backward
        begins."""
        with super().phase(name):
            if name in self.stretches:
                self._close()
                self._cut_phase = name
                self._open("before" if name == "forward" else "head")
            yield
        if name == "backward":
            self._close()

    def cut(self, border: Border) -> None:
        """End the stretch that runs, and begin the next."""
        if self._border is not None:
            self._close()
            self._open(border)

    def on_operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count the operator as well."""
        self._num_operators += 1
        return super().on_operator(operator, args, kwargs)

    def _open(self, border: Border) -> None:
        self._num_operators = 0
        self._border, self._begin, self._top_bytes = border, self._live.copy(), -1
        self._freed = defaultdict(Counter)
        self._look()

    def _close(self) -> None:
        if self._border is None or self._cut_phase is None:
            return
        stretches = self.stretches[self._cut_phase]
        if self._cut_phase == "forward":
            self._refuse_loops()
        if self._border in stretches:
            raise NotPeriodicError(f"{self._cut_phase} comes to {self._border} twice")
        top, net = _difference(self._top, self._begin), _difference(self._live, self._begin)
        stretches[self._border] = Stretch(top, net, self._freed)
        self._border = None

    def _refuse_loops(self) -> None:
        count = self._num_operators
        if count > max(MOST_LOOPED, LOOPED_OPERATORS * self._tokens):
            fitting = self._tokens * MOST_LOOPED // count
            raise TooLongError(
                Phrase(
                    "its code loops over every token, which takes minutes to trace. Choose "
                    "--sequence-length {fitting:,} or less",
                    fitting=2 ** max(0, fitting.bit_length() - 1),
                )
            )

    def _look(self) -> None:
        super()._look()
        if self._border is not None and self._total_bytes >= self._top_bytes:
            self._top_bytes, self._top = self._total_bytes, self._live.copy()

    def _note(
        self, tensor: torch.Tensor, num_bytes: int | None = None, *, peaks: bool = True
    ) -> None:
        key = storage_id(tensor.untyped_storage())
        known = key in self._storages
        super()._note(tensor, num_bytes, peaks=peaks)
        if not known and key in self._storages:
            self._born[key] = self._border

    def _forget(self, key: int) -> None:
        born, storage = self._born.pop(key), self._storages[key]
        if storage.part not in self._left_out and self._border is not None:
            self._freed[born][storage.part] += storage.num_bytes
        super()._forget(key)


def _difference(after: Amounts, before: Amounts) -> Amounts:
    """Return what was added, of the parts that changed."""
    found = after.copy()
    found.subtract(before)
    return Counter({part: size for part, size in found.items() if size})
