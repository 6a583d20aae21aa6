"""Tracer of every storage that operators allocate: its size, part and phase, and when it is freed.

Nothing is fitted: a storage counts from the operator that made it until its last tensor is gone,
rounded up as the CUDA allocator rounds. Tensors may be real or fake.
"""

import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import inf
from time import process_time
from typing import Any, NamedTuple

import torch

from launcher.compat.torch import OperatorWatch, for_tensors, local_part, storage_id
from launcher.rehearsal.phases import Phases
from planner.base.errors import UserError
from planner.base.phrases import Phrase
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up
from planner.plan.vocabulary import Part


class TooLongError(UserError):
    """A step that could be traced, if that did not take so long."""


class Storage(NamedTuple):
    """A storage that is allocated now."""

    num_bytes: int
    """Size, rounded up to blocks."""
    part: str


class Tracer(OperatorWatch):  # type: ignore[no-untyped-call]
    """A recorder of live bytes by part, at the largest moment of every phase.

    ``rules`` has functions that handle single operators (launcher/rehearsal/operator_rules.py).
    Parts in ``left_out`` are traced, and are in no sum. ``TooLongError`` is raised inside a trace
    at ``until_s`` of the process's time.
    """

    def __init__(
        self, rules: Any = None, *, left_out: Collection[str] = (), until_s: float = inf
    ) -> None:
        super().__init__()
        self._until_s = until_s
        self.phases: Phases = {}
        self._rules = rules
        self._left_out = frozenset(left_out)
        self._phase: str | None = None
        self._part: str = "activations"
        self._storages: dict[int, Storage] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._live: Counter[str] = Counter()
        self._total_bytes = 0
        self._peak_bytes = 0

    @property
    def live_bytes(self) -> int:
        """Bytes that are allocated now, without the parts that are left out."""
        return self._total_bytes

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        """Count what is alive now and what is allocated later as part of a phase; of no phase if
        None."""
        self._phase, self._peak_bytes = name, -1
        self._look()
        yield
        self._phase = None

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count the storages made inside the block as one part of memory."""
        before, self._part = self._part, name
        yield
        self._part = before

    def switch(self, name: Part) -> None:
        """Count the storages made from now on as one part of memory."""
        self._part = name

    def assign(self, tensor: torch.Tensor, part: Part) -> None:
        """Count a tensor's storage as another part, or count one that no operator has made."""
        tensor = local_part(tensor)
        self._note(tensor)
        key = storage_id(tensor.untyped_storage())
        storage = self._storages[key]
        self._count(storage.part, -storage.num_bytes)
        self._storages[key] = storage._replace(part=part)
        self._count(part, storage.num_bytes)
        self._look()

    def made_in_place(self, tensor: torch.Tensor) -> None:
        """Count a storage that would be one of the operator's inputs: it makes no peak."""
        self._note(tensor, peaks=False)

    def made_on_host(self, tensor: torch.Tensor) -> None:
        """Count a storage that is on the host, not on the device, with zero bytes."""
        self._note(tensor, num_bytes=0)

    def resized(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage anew, whose size no operator has changed."""
        key = storage_id(tensor.untyped_storage())
        storage = self._storages[key]
        size = round_up(tensor.untyped_storage().nbytes(), ALLOCATOR_BLOCK_BYTES)
        self._count(storage.part, size - storage.num_bytes)
        self._storages[key] = storage._replace(num_bytes=size)
        self._look()

    def transient(self, num_bytes: int, part: Part) -> None:
        """Count what a kernel allocates and frees inside."""
        size = round_up(num_bytes, ALLOCATOR_BLOCK_BYTES)
        self._count(part, size)
        self._look()
        self._count(part, -size)

    def on_operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the operator, or the rule for it, and note the storages of its result."""
        if process_time() > self._until_s:
            raise TooLongError(
                Phrase(
                    "it takes too long, as a loop over every token does. Choose a shorter "
                    "--sequence-length"
                )
            )
        rule = self._rules.get(operator) if self._rules is not None else None
        result = operator(*args, **kwargs) if rule is None else rule(self, operator, args, kwargs)
        for_tensors(self._note, result)
        return result

    def _note(
        self, tensor: torch.Tensor, num_bytes: int | None = None, *, peaks: bool = True
    ) -> None:
        storage = tensor.untyped_storage()
        key = storage_id(storage)
        if key in self._storages or tensor.device.type == "meta":
            return
        size = storage.nbytes() if num_bytes is None else num_bytes
        size = round_up(size, ALLOCATOR_BLOCK_BYTES)
        self._storages[key] = Storage(size, self._part)
        self._watched[key] = weakref.ref(storage, lambda _: self._forget(key))
        self._count(self._part, size)
        if peaks:
            self._look()

    def _forget(self, key: int) -> None:
        del self._watched[key]
        storage = self._storages.pop(key)
        self._count(storage.part, -storage.num_bytes)

    def _count(self, part: str, num_bytes: int) -> None:
        if part not in self._left_out:
            self._live[part] += num_bytes
            self._total_bytes += num_bytes

    def _look(self) -> None:
        if self._phase is not None and self._total_bytes >= self._peak_bytes:
            self._peak_bytes = self._total_bytes
            self.phases[self._phase] = {part: n for part, n in self._live.items() if n}
