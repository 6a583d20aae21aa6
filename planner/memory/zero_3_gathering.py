"""Parameters that ZeRO-3 holds whole at each moment of a step, and the buffers they arrive in.

read: deepspeed/runtime/zero/partitioned_param_coordinator.py at 0.19.8. Before a module runs its
parameters are gathered and those of the modules to come are fetched ahead, until as many elements
are under way as the prefetch bucket holds or as may be live (fetch_sub_module). After it has run
they go, unless they come again within as many elements as the reuse distance (release_sub_module).
Parameters that are fetched together arrive in one buffer, which stays until the last of them is
used, beside a copy of each (AllGatherCoalescedHandle). Where slices are in host memory, that of a
parameter which is fetched alone is on the device until the parameter is used
(partition_parameters.py, _all_gather_sequential), and those of several until they are joined in the
buffer (_all_gather_dtype).
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import Struct, field

from planner.base.units import block, ceil_div
from planner.memory.zero_3 import whole_parameter_bytes
from planner.plan.schema import ZeroSection
from planner.workload.parameters import Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

LAYERS_RUN = 8
"""Number of layers that are run: enough for the pattern of fetching ahead and of keeping to repeat
itself."""
NEVER = -1
"""Step of a parameter that has not been fetched."""
Module = tuple[Sized, ...]
"""Parameters of one module."""


class GatheredBytes(Struct, frozen=True):
    """Bytes of whole parameters at the largest moments of a step."""

    embedding: int
    """Bytes before the first layer."""
    forward: int
    """Bytes while layers run forward."""
    head: int
    """Bytes from the head's forward to its backward pass."""
    backward: tuple[int, ...]
    """Bytes in the backward pass of each layer that was run, the last one first; then of the
    embedding."""

    @property
    def moments(self) -> tuple[int, ...]:
        """Bytes at each of these moments."""
        return self.embedding, self.forward, self.head, *self.backward

    @property
    def most(self) -> int:
        """Bytes at the largest moment of all."""
        return max(self.moments)

    def in_forward(self, *, from_host: bool) -> int:
        """Return the bytes that are counted while layers run forward: at least those of the
        embedding, which may stay where layers run again, so that a plan which recomputes fewer
        layers does not seem the leaner one. Slices that come from host memory are most of what such
        a rank holds, and are counted when they are there."""
        return self.forward if from_host else max(self.embedding, self.forward)

    def in_backward(self, num_layers: int) -> list[int]:
        """Return the bytes for each layer of a model with so many layers.

        Layers that were not run are as the one in the middle; the last and the first of a model
        fetch the head and the embedding ahead, too.
        """
        *layers, embedding = self.backward
        middle = len(layers) // 2
        more = layers[middle : middle + 1] * (num_layers - len(layers))
        return [*layers[:middle], *more, *layers[middle:], embedding]


class Coordinator(Struct, kw_only=True, eq=False):
    """One step of PartitionedParameterCoordinator after it has recorded the modules' order."""

    order: Sequence[Module]
    ranks: int
    width: int
    zero: ZeroSection
    from_host: bool
    live_bytes: int = 0
    peak_bytes: int = 0
    step: int = 0
    num_live: int = 0
    whole: set[str] = field(default_factory=set)
    under_way: dict[str, "Flight"] = field(default_factory=dict)
    fetched_for: dict[str, int] = field(default_factory=dict)
    queue: deque[tuple[Sized, int]] = field(default_factory=deque)
    passed: list[int] = field(default_factory=list)
    """Elements of the modules before each one."""
    uses: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the modules that use a parameter."""
    follows: bool = True
    """Whether modules come as they were recorded: else nothing is fetched ahead or kept."""
    decided: dict[tuple[int, int], frozenset[str]] = field(default_factory=dict)
    """Parameters that go after a module, by its identity and the step: decided once for good."""
    running: dict[str, set[int]] = field(default_factory=dict)
    """Identities of the modules that have been fetched and not released, by parameter: a tied one
    may be all that two modules have."""

    def __post_init__(self) -> None:
        sizes = [sum(parameter.elements for parameter in module) for module in self.order]
        self.passed = list(accumulate(sizes, initial=0))
        for number, module in enumerate(self.order):
            for parameter in module:
                self.uses.setdefault(parameter.name, []).append(number)
        self._begin()
        self.whole |= {
            parameter.name
            for module in self.order
            for parameter in module
            if self._stays(parameter)
        }

    def _begin(self) -> None:
        """Begin with the first module."""
        self.queue = deque(
            (parameter, n) for n, module in enumerate(self.order) for parameter in module
        )
        self.fetched_for.clear()
        self.step = self.num_live = 0

    def reset(self) -> None:
        """Mirror reset_step, which a forward pass begins with: what is under way is dropped, and
        what is whole stays, but is counted as live no longer."""
        self._drop_under_way()
        self._begin()

    def invalidate(self) -> None:
        """Mirror _invalidate_trace."""
        self._drop_under_way()
        self.follows = False

    def _drop_under_way(self) -> None:
        """Mirror _clean_inflight_param_registry."""
        for flight in {id(each): each for each in self.under_way.values()}.values():
            for parameter in flight.together:
                if parameter.name in self.under_way:
                    self._arrive(flight, parameter)
                    self._drop(parameter)

    def drop_all(self) -> None:
        """Mirror partition_all_parameters, which an optimizer's step ends with."""
        self._drop_under_way()
        for parameter in {each.name: each for module in self.order for each in module}.values():
            if parameter.name in self.whole and not self._stays(parameter):
                self._drop(parameter)

    def _drop(self, parameter: Sized) -> None:
        if self._stays(parameter):
            return
        self.whole.remove(parameter.name)
        self.num_live -= parameter.elements
        self.live_bytes -= self._bytes(parameter)

    def fetch(self, module: Module) -> None:
        """Mirror fetch_sub_module."""
        for parameter in module:
            self.running.setdefault(parameter.name, set()).add(id(module))
        self._gather(parameter for parameter in module if not self._here(parameter))
        for parameter in module:
            flight = self.under_way.get(parameter.name)
            if flight is not None:
                self._arrive(flight, parameter)
        if self.follows:
            self._follow(module)
            self._fetch_ahead()
        self.step += 1

    def _follow(self, module: Module) -> None:
        """Take what the module needs from the queue."""
        for _ in [
            parameter
            for parameter in module
            if self.fetched_for.get(parameter.name, NEVER) < self.step
        ]:
            fetched, used_at = self.queue.popleft()
            self.fetched_for[fetched.name] = used_at

    def _fetch_ahead(self) -> None:
        room = min(self.zero.max_live_parameters - self.num_live, self.zero.prefetch_bucket_size)
        ahead: dict[str, Sized] = {}
        size = 0
        while self.queue and size < room:
            parameter, used_at = self.queue.popleft()
            self.fetched_for[parameter.name] = max(
                self.fetched_for.get(parameter.name, NEVER), used_at
            )
            if not self._here(parameter) and parameter.name not in ahead:
                ahead[parameter.name] = parameter
                size += parameter.elements
        self._gather(ahead.values())

    def release(self, module: Module) -> None:
        """Mirror release_sub_module: a parameter of several modules stays until none of them
        runs."""
        leaving = self._leaving(module)
        for parameter in module:
            self.running[parameter.name].discard(id(module))
            is_free = parameter.name in self.whole and not self.running[parameter.name]
            if is_free and parameter.name in leaving:
                self._drop(parameter)

    def _leaving(self, module: Module) -> frozenset[str]:
        """Mirror __params_to_release, whose answers are cached."""
        if not self.follows:
            return frozenset(parameter.name for parameter in module)
        key = id(module), self.step
        if key not in self.decided:
            self.decided[key] = frozenset(
                parameter.name
                for parameter in module
                if self.fetched_for.get(parameter.name, NEVER) <= self.step
                and not self._used_soon(parameter)
            )
        return self.decided[key]

    def _used_soon(self, parameter: Sized) -> bool:
        """Return whether it is used again within as many elements as may be live."""
        uses = self.uses[parameter.name]
        place = bisect_left(uses, self.step)
        if place == len(uses):
            return False
        between = self.passed[uses[place]] - self.passed[self.step]
        return between < self.zero.max_live_parameters

    def _stays(self, parameter: Sized) -> bool:
        """Return whether it is persistent; such parameters are counted apart, as a step always
        holds them."""
        return parameter.elements <= self.zero.param_persistence_threshold

    def _here(self, parameter: Sized) -> bool:
        return parameter.name in self.whole or parameter.name in self.under_way

    def _gather(self, params: Iterable[Sized]) -> None:
        together = list(params)
        if not together:
            return
        flight = Flight(together=together, waiting={parameter.name for parameter in together})
        self.num_live += sum(parameter.elements for parameter in together)
        flat = sum(ceil_div(parameter.elements, self.ranks) for parameter in together)
        flight.buffer_bytes = whole_parameter_bytes(flat * self.ranks, self.ranks, self.width)
        if self.from_host and len(together) == 1:
            flight.slice_bytes = block(flat * self.width)
        self._hold(flight.buffer_bytes + flight.slice_bytes)
        if self.from_host and len(together) > 1:
            slices = sum(
                block(ceil_div(each.elements, self.ranks) * self.width) for each in together
            )
            self.peak_bytes = max(self.peak_bytes, self.live_bytes + slices)
        self.under_way |= {parameter.name: flight for parameter in together}

    def _arrive(self, flight: "Flight", parameter: Sized) -> None:
        """Hand out a gathered parameter: a lone one is a view of its buffer; several are copied out
        of it, all at once."""
        if not flight.arrived:
            flight.arrived = True
            self.live_bytes -= flight.slice_bytes
            self.whole |= {other.name for other in flight.together}
            if len(flight.together) > 1:
                self._hold(sum(self._bytes(other) for other in flight.together))
        del self.under_way[parameter.name]
        flight.waiting.discard(parameter.name)
        if not flight.waiting and len(flight.together) > 1:
            self.live_bytes -= flight.buffer_bytes

    def _hold(self, num_bytes: int) -> None:
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _bytes(self, parameter: Sized) -> int:
        return whole_parameter_bytes(parameter.elements, self.ranks, self.width)

    def peak_since(self) -> int:
        """Return the most bytes since the last call."""
        peak, self.peak_bytes = self.peak_bytes, self.live_bytes
        return peak


class Flight(Struct, kw_only=True, eq=False):
    """Parameters that are gathered in one buffer."""

    together: list[Sized]
    waiting: set[str]
    buffer_bytes: int = 0
    slice_bytes: int = 0
    arrived: bool = False


@cached_by_settings(*TRAINED, "loss")
def gathered_parameters(
    workload: Workload,
    ranks: int,
    zero: ZeroSection,
    *,
    checkpointing: bool,
    width: int,
    from_host: bool,
) -> GatheredBytes:
    """Return the largest moments of a step, once the order of the modules has been recorded;
    ``from_host`` says whether slices are in host memory."""
    modules = _modules_of(workload, LAYERS_RUN)
    script = _script(workload, modules, checkpointing=checkpointing)
    coordinator = _coordinator(script, ranks, zero, width=width, from_host=from_host)
    embedding, forward, head, *backward = _run_all(coordinator, script)
    return GatheredBytes(embedding, forward, head, tuple(backward))


Script = list[tuple[str, Module]]
"""Modules in the order of a step: ``fetch`` and ``release`` of a module, ``end`` of a stretch."""


class Modules(Struct, frozen=True):
    """Parameters of a model by their module, in the order of a forward pass."""

    embedding: list[Module]
    layers: list[list[Module]]
    norms: list[Module]
    head: Module
    """Parameters of the head: the token embedding where the two are tied."""


def recorded(
    workload: Workload,
    ranks: int,
    zero: ZeroSection,
    *,
    checkpointing: bool,
    width: int,
    from_host: bool,
) -> tuple[Coordinator, Modules]:
    """Return a coordinator that has made a step of all layers, and the modules that it knows."""
    modules = _modules_of(workload, None)
    script = _script(workload, modules, checkpointing=checkpointing)
    coordinator = _coordinator(script, ranks, zero, width=width, from_host=from_host)
    _run_all(coordinator, script)
    coordinator.drop_all()
    return coordinator, modules


def _coordinator(
    script: Script, ranks: int, zero: ZeroSection, *, width: int, from_host: bool
) -> Coordinator:
    return Coordinator(
        order=[module for kind, module in script if kind == "fetch"],
        ranks=ranks,
        width=width,
        zero=zero,
        from_host=from_host,
    )


def _run_all(coordinator: Coordinator, script: Script) -> list[int]:
    """Return the most bytes in each stretch."""
    peaks: list[int] = []
    for kind, module in script:
        if kind == "fetch":
            coordinator.fetch(module)
        elif kind == "release":
            coordinator.release(module)
        else:
            peaks.append(coordinator.peak_since())
    return peaks


def _script(workload: Workload, modules: Modules, *, checkpointing: bool) -> Script:
    """Return a step as modules run. trl's fused loss reads the head's weight outside of its module,
    so that it belongs to the whole model and stays from the first module to the last."""
    embedding, head, layers = modules.embedding, modules.head, modules.layers
    norms = [event for module in modules.norms for event in _run(module)]
    fused = workload.loss == "fused"
    trains = any(parameter.trains for module in embedding for parameter in module)
    script: Script = [("fetch", head)] if fused else []
    script += [event for module in embedding for event in _run(module)]
    script += [("end", ())]
    for layer in layers:
        script += [event for module in layer for event in _run(module)]
    script += norms
    script += [] if fused else [("fetch", head)]
    script += [("end", ()), ("release", head), ("fetch", head)]
    script += [] if fused else [("release", head)]
    script += [*norms, ("end", ())]
    for layer in reversed(layers):
        if checkpointing:
            script += [event for module in layer for event in _run(module)]
        script += [event for module in reversed(layer) for event in _run(module)]
        script += [("end", ())]
    if trains or checkpointing:
        script += [("fetch", module) for module in reversed(embedding)]
    return [*script, ("end", ())]


def _run(module: Module) -> Script:
    return [("fetch", module), ("release", module)]


def _modules(layer: Iterable[Sized]) -> list[Module]:
    """Return the parameters of one layer by their module."""
    found: dict[str, list[Sized]] = {}
    for parameter in layer:
        found.setdefault(parameter.module, []).append(parameter)
    return [tuple(module) for module in found.values()]


def _modules_of(workload: Workload, num_layers: int | None) -> Modules:
    """Return the modules of a model, of its first layers alone where a number is given."""
    whole = parameters(workload)
    head = tuple(parameter for parameter in whole.after if parameter.module == "lm_head")
    norms = tuple(parameter for parameter in whole.after if parameter not in head)
    owns_weight = any(parameter.name == "lm_head" for parameter in head)
    return Modules(
        embedding=_modules(whole.before),
        layers=[_modules(layer) for layer in whole.layers[:num_layers]],
        norms=[norms],
        head=head if owns_weight else (*head, whole.before[0]),
    )
