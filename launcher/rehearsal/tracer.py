"""Every storage that operators allocate: how large, for what, in which phase, when freed.

Nothing is fitted: a storage counts from the operator that made it until its last tensor is
gone, rounded up as the CUDA allocator rounds. It works on real tensors and on fake ones.
"""

import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch

from launcher.compat.torch import OperatorWatch, for_tensors, storage_id
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up
from planner.plan.vocabulary import Part

Phases = dict[str, dict[str, int]]


class Event(NamedTuple):
    """One call of the allocator; a list of them can be replayed through its rules."""

    kind: Literal["alloc", "free"]
    storage: int
    """Number of the storage, in order of allocation."""
    num_bytes: int
    phase: str | None
    part: str


class Tracer(OperatorWatch):  # type: ignore[no-untyped-call]
    """Live bytes by part, and for each phase the parts at its largest moment."""

    def __init__(self, rules: Any = None, *, left_out: Collection[str] = ()) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.phases: Phases = {}
        self._rules = rules
        self._left_out = frozenset(left_out)
        self._phase: str | None = None
        self._part: str = "activations"
        self._owned: dict[int, Event] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._live: Counter[str] = Counter()
        self._total_bytes = 0
        self._peak_bytes = 0
        self._num_storages = 0

    @property
    def live_bytes(self) -> int:
        """Of the parts that are not left out."""
        return self._total_bytes

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        """What is alive now and what comes is part of a phase; under no name, of none."""
        self._phase, self._peak_bytes = name, -1
        self._look()
        yield
        self._phase = None

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Storages made inside belong to a part."""
        before, self._part = self._part, name
        yield
        self._part = before

    def switch(self, name: Part) -> None:
        """As :meth:`part`, until the next switch."""
        self._part = name

    def own(self, tensor: torch.Tensor, part: Part) -> None:
        """Say what a storage has turned out to be, or count one that was made elsewhere."""
        self._note(tensor)
        key = storage_id(tensor.untyped_storage())
        event = self._owned[key]
        self._count(event.part, -event.num_bytes)
        self._owned[key] = event._replace(part=part)
        self._count(part, event.num_bytes)
        self._look()

    def replaces(self, tensor: torch.Tensor) -> None:
        """A storage that is one of those before it, unless something still holds that one."""
        self._note(tensor, looks=False)

    def elsewhere(self, tensor: torch.Tensor) -> None:
        """A storage that is on the host where the plan's tensors are on a device."""
        self._note(tensor, num_bytes=0)

    def transient(self, num_bytes: int, part: Part) -> None:
        """What a kernel allocates and frees inside."""
        size = round_up(num_bytes, ALLOCATOR_BLOCK_BYTES)
        event = Event("alloc", self._number(), size, self._phase, part)
        self._alloc(event)
        self._free(event)

    def on_operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = self._rules.get(operator) if self._rules is not None else None
        result = operator(*args, **kwargs) if rule is None else rule(self, operator, args, kwargs)
        for_tensors(self._note, result)
        return result

    def _note(
        self, tensor: torch.Tensor, num_bytes: int | None = None, *, looks: bool = True
    ) -> None:
        storage = tensor.untyped_storage()
        key = storage_id(storage)
        if key in self._owned or tensor.device.type == "meta":
            return
        size = storage.nbytes() if num_bytes is None else num_bytes
        size = round_up(size, ALLOCATOR_BLOCK_BYTES)
        event = Event("alloc", self._number(), size, self._phase, self._part)
        self._owned[key] = event
        self._watched[key] = weakref.ref(storage, lambda _: self._forget(key))
        self._alloc(event, looks=looks)

    def _forget(self, key: int) -> None:
        del self._watched[key]
        self._free(self._owned.pop(key))

    def _number(self) -> int:
        self._num_storages += 1
        return self._num_storages

    def _alloc(self, event: Event, *, looks: bool = True) -> None:
        self.events.append(event)
        self._count(event.part, event.num_bytes)
        if looks:
            self._look()

    def _free(self, event: Event) -> None:
        self.events.append(event._replace(kind="free", phase=self._phase))
        self._count(event.part, -event.num_bytes)

    def _count(self, part: str, num_bytes: int) -> None:
        if part not in self._left_out:
            self._live[part] += num_bytes
            self._total_bytes += num_bytes

    def _look(self) -> None:
        if self._phase is not None and self._total_bytes >= self._peak_bytes:
            self._peak_bytes = self._total_bytes
            self.phases[self._phase] = {part: n for part, n in self._live.items() if n}
