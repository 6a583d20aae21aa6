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

What autograd saves of a parameter goes with it, since a parameter is freed by giving it other data.
A view keeps the data that it was made of: grouped products save their matrices turned
(transformers/integrations/moe.py at 5.23.0, _grouped_linear), so that the experts of a layer that
is not recomputed stay until its backward pass, in which they are gathered once more. In a layer
that is, frozen parameters stay from the second forward pass to the end of the layer's backward
pass (update_recompute_parameters).
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, repeat

from msgspec import Struct, field

from planner.base.units import block, ceil_div
from planner.forward.model_pass import passed_layers
from planner.forward.module_order import Module, Modules, Script, modules_of, script
from planner.memory.zero_3 import whole_parameter_bytes
from planner.plan.schema import ZeroSection
from planner.workload.parameters import EXPERTS, Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

LAYERS_RUN = 8
"""Number of layers that are run: enough for the pattern of fetching ahead and of keeping to repeat
itself."""
NEVER = -1
"""Step of a parameter that has not been fetched."""
LAYER = -1
"""Stands for the recomputed layer among identities of modules."""


class GatheredBytes(Struct, frozen=True):
    """Bytes of whole parameters at the largest moments of a step."""

    embedding: int
    """Bytes before the first layer."""
    forward: tuple[int, ...]
    """Bytes in the forward pass of each layer that was run."""
    before_head: int
    """Bytes after the last layer, until the head is whole."""
    head: int
    """Bytes in the head's forward pass."""
    head_backward: int
    """Bytes from there to the head's backward pass."""
    backward: tuple[int, ...]
    """Bytes in the backward pass of each layer that was run, the last one first; then of the
    embedding."""
    kept: tuple[int, ...]
    """Bytes that a layer's graph keeps of its parameters, added up from the first layer to each
    one of the model."""

    @property
    def moments(self) -> tuple[int, ...]:
        """Bytes at each of these moments."""
        return (
            self.embedding,
            *self.in_forward(from_host=True),
            self.before_head,
            self.head,
            self.head_backward,
            *self.in_backward,
        )

    @property
    def most(self) -> int:
        """Bytes at the largest moment of all."""
        return max(self.moments)

    def in_forward(self, *, from_host: bool) -> list[int]:
        """Return the bytes that are counted in the forward pass of each layer of the model: at
        least those of the embedding, which may stay where layers run again, so that a plan which
        recomputes fewer layers does not seem the leaner one. Slices that come from host memory are
        most of what such a rank holds, and are counted when they are there."""
        least = 0 if from_host else self.embedding
        return [
            max(least, self.forward[place] + self._above(layer, place))
            for layer, place in enumerate(self._places)
        ]

    @property
    def in_backward(self) -> list[int]:
        """Bytes for each layer of the model, the last one first; then of the embedding."""
        *layers, embedding = self.backward
        numbers = list(enumerate(self._places))
        return [
            *(layers[-1 - place] + self._above(layer, place) for layer, place in reversed(numbers)),
            embedding,
        ]

    @property
    def _places(self) -> list[int]:
        """Place of each layer among those that were run: others are as the one in the middle; the
        last and the first of a model fetch the head and the embedding ahead, too."""
        run = range(len(self.forward))
        middle = (len(run) - 1) // 2
        more = len(self.kept) - len(run)
        return [*run[: middle + 1], *[middle] * more, *run[middle + 1 :]]

    def _above(self, layer: int, place: int) -> int:
        """Return what graphs keep up to a layer beyond what they did up to the one that was run."""
        return self.kept[layer] - self.kept[place]


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
    """Elements of the modules before each one, which is what is counted when others than leaves go;
    leaves have none of their own there."""
    passed_with_inside: list[int] = field(default_factory=list)
    """The same with what is inside of modules, counted when leaves go."""
    uses: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the modules that use a parameter, other than leaves."""
    uses_of_leaves: dict[int, list[int]] = field(default_factory=dict)
    """Numbers of the modules that are a leaf or have it inside, by its identity."""
    follows: bool = True
    """Whether modules come as they were recorded: else nothing is fetched ahead or kept."""
    decided: dict[tuple[int, int], frozenset[str]] = field(default_factory=dict)
    """Parameters that go after a module, by its identity and the step: decided once for good."""
    running: dict[str, set[int]] = field(default_factory=dict)
    """Identities of the modules that have been fetched and not released, by parameter: a tied one
    may be all that two modules have."""
    viewed: frozenset[str] = frozenset()
    """Names of the parameters of which autograd saves a view."""
    saved: set[str] = field(default_factory=set)
    """Names of those of which a graph has a view of what is whole."""
    kept: set[str] = field(default_factory=set)
    """Names of those of which a graph has the data alone."""

    def __post_init__(self) -> None:
        own = [0 if module.is_leaf else module.elements for module in self.order]
        self.passed = list(accumulate(own, initial=0))
        self.passed_with_inside = list(
            accumulate([each.elements + each.inside_elements for each in self.order], initial=0)
        )
        for number, module in enumerate(self.order):
            for parameter in () if module.is_leaf else module.params:
                self.uses.setdefault(parameter.name, []).append(number)
            for leaf in (module,) if module.is_leaf else module.leaves:
                self.uses_of_leaves.setdefault(id(leaf), []).append(number)
        self._begin()
        self.whole |= {
            parameter.name
            for module in self.order
            for parameter in module.params
            if self._stays(parameter)
        }

    def _begin(self) -> None:
        """Begin with the first module."""
        self.queue = deque(
            (parameter, n) for n, module in enumerate(self.order) for parameter in module.params
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
        for parameter in {
            each.name: each for module in self.order for each in module.params
        }.values():
            if parameter.name in self.whole and not self._stays(parameter):
                self._drop(parameter)

    def _drop(self, parameter: Sized) -> None:
        if self._stays(parameter):
            return
        self.whole.remove(parameter.name)
        self.num_live -= parameter.elements
        if parameter.name in self.saved:
            self.saved.remove(parameter.name)
            self.kept.add(parameter.name)
        else:
            self.live_bytes -= self._bytes(parameter)

    def save(self, module: Module) -> None:
        """Have a graph save what it does of the module's parameters."""
        self.saved |= self.viewed.intersection(parameter.name for parameter in module.params)

    def spend(self, module: Module) -> None:
        """Drop what a graph has saved, when its backward pass has used it."""
        for parameter in module.params:
            if parameter.name in self.kept:
                self.live_bytes -= self._bytes(parameter)
        self.kept.difference_update(parameter.name for parameter in module.params)
        self.saved.difference_update(parameter.name for parameter in module.params)

    def fetch(self, module: Module, *, again: bool = False) -> None:
        """Mirror fetch_sub_module; ``again`` in the second forward pass of a recomputed layer, to
        which frozen parameters belong from then on."""
        if module.params:
            self._hold_whole(module, again=again)
        if self.follows:
            self._fetch_ahead()
        self.step += 1

    def _hold_whole(self, module: Module, *, again: bool) -> None:
        """Gather what the module needs and is not there, and wait for what is under way."""
        for parameter in module.params:
            of_modules = self.running.setdefault(parameter.name, set())
            of_modules.add(id(module))
            if again and not parameter.trains:
                of_modules.add(LAYER)
        self._gather([each for each in module.params if not self._here(each)])
        for parameter in module.params:
            flight = self.under_way.get(parameter.name)
            if flight is not None:
                self._arrive(flight, parameter)
        if self.follows:
            self._follow(module)

    def _follow(self, module: Module) -> None:
        """Take what the module needs from the queue."""
        for _ in [
            parameter
            for parameter in module.params
            if self.fetched_for.get(parameter.name, NEVER) < self.step
        ]:
            fetched, used_at = self.queue.popleft()
            self.fetched_for[fetched.name] = used_at

    def _fetch_ahead(self) -> None:
        room = min(self.zero.max_live_parameters - self.num_live, self.zero.prefetch_bucket_size)
        if room <= 0:
            return
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
        self._gather(list(ahead.values()))

    def release(self, module: Module) -> None:
        """Mirror release_sub_module: a parameter of several modules stays until none of them
        runs."""
        leaving = self._leaving(module) if module.params else frozenset[str]()
        for parameter in module.params:
            self.running[parameter.name].discard(id(module))
            is_free = parameter.name in self.whole and not self.running[parameter.name]
            if is_free and parameter.name in leaving:
                self._drop(parameter)

    def leave(self, layer: Module) -> None:
        """Mirror release_sub_module of a recomputed layer: what belongs to it goes, however soon it
        is used again."""
        for parameter in layer.params:
            of_modules = self.running[parameter.name]
            if LAYER in of_modules:
                of_modules.remove(LAYER)
                if parameter.name in self.whole and not of_modules:
                    self._drop(parameter)

    def _leaving(self, module: Module) -> frozenset[str]:
        """Mirror __params_to_release, whose answers are cached."""
        if not self.follows:
            return frozenset(parameter.name for parameter in module.params)
        key = id(module), self.step
        if key not in self.decided:
            self.decided[key] = frozenset(
                parameter.name
                for parameter in module.params
                if self.fetched_for.get(parameter.name, NEVER) <= self.step
                and not self._used_soon(module, parameter)
            )
        return self.decided[key]

    def _used_soon(self, module: Module, parameter: Sized) -> bool:
        """Return whether it is used again within as many elements as may be live."""
        uses, passed = self.uses.get(parameter.name, []), self.passed
        if module.is_leaf:
            uses, passed = self.uses_of_leaves[id(module)], self.passed_with_inside
        place = bisect_left(uses, self.step)
        if place == len(uses):
            return False
        return passed[uses[place]] - passed[self.step] < self.zero.max_live_parameters

    def _stays(self, parameter: Sized) -> bool:
        """Return whether it is persistent; such parameters are counted apart, as a step always
        holds them."""
        return parameter.elements <= self.zero.param_persistence_threshold

    def _here(self, parameter: Sized) -> bool:
        return parameter.name in self.whole or parameter.name in self.under_way

    def _gather(self, together: list[Sized]) -> None:
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
    checkpointing: int,
    width: int,
    from_host: bool,
) -> GatheredBytes:
    """Return the largest moments of a step, once the order of the modules has been recorded;
    ``from_host`` says whether slices are in host memory. Every ``checkpointing``-th layer is
    recomputed, no layer where it is 0."""
    modules = modules_of(workload, LAYERS_RUN)
    events = script(workload, modules, checkpointing=checkpointing)
    coordinator = _coordinator(workload, events, ranks, zero, width=width, from_host=from_host)
    embedding, *moments = _run_all(coordinator, events)
    run = len(modules.layers)
    before_head, head, head_backward, *backward = moments[run:]
    kept = tuple(accumulate(_kept(workload, ranks, width, checkpointing)))
    beyond = kept[-1] - kept[run - 1]
    return GatheredBytes(
        embedding=embedding,
        forward=tuple(moments[:run]),
        before_head=before_head + beyond,
        head=head + beyond,
        head_backward=head_backward + beyond,
        backward=tuple(backward),
        kept=kept,
    )


def _kept(workload: Workload, ranks: int, width: int, checkpointing: int) -> Iterator[int]:
    """Yield the bytes that the graph of each layer keeps of its parameters until its backward pass,
    which are none where it is recomputed."""
    viewed = _viewed(workload)
    layers = parameters(workload).layers
    if not viewed:
        yield from repeat(0, len(layers))
        return
    for layer, run in zip(layers, passed_layers(workload.model, checkpointing), strict=True):
        yield sum(
            whole_parameter_bytes(each.elements, ranks, width)
            for each in layer
            if not run.recomputed and each.name in viewed
        )


def _viewed(workload: Workload) -> frozenset[str]:
    """Return the names of the parameters of which autograd saves a view: matrices of grouped
    products that are turned for them, and the first factors of their adapters."""
    experts = workload.model.experts
    if experts is None or experts.stored_turned:
        return frozenset()
    return frozenset(
        each.name
        for layer in parameters(workload).layers
        for each in layer
        if EXPERTS in each.name and not each.name.endswith((".bias", "_bias", ".lora_B"))
    )


def recorded(
    workload: Workload,
    ranks: int,
    zero: ZeroSection,
    *,
    checkpointing: int,
    width: int,
    from_host: bool,
) -> tuple[Coordinator, Modules]:
    """Return a coordinator that has made a step of all layers, and the modules that it knows."""
    modules = modules_of(workload, None)
    events = script(workload, modules, checkpointing=checkpointing)
    coordinator = _coordinator(workload, events, ranks, zero, width=width, from_host=from_host)
    _run_all(coordinator, events)
    coordinator.drop_all()
    return coordinator, modules


def _coordinator(
    workload: Workload,
    events: Script,
    ranks: int,
    zero: ZeroSection,
    *,
    width: int,
    from_host: bool,
) -> Coordinator:
    return Coordinator(
        viewed=_viewed(workload),
        order=[module for kind, module in events if kind in ("fetch", "again")],
        ranks=ranks,
        width=width,
        zero=zero,
        from_host=from_host,
    )


def _run_all(coordinator: Coordinator, events: Script) -> list[int]:
    """Return the most bytes in each stretch."""
    peaks: list[int] = []
    steps: dict[str, Callable[[Module], None]] = {
        "fetch": coordinator.fetch,
        "again": partial(coordinator.fetch, again=True),
        "save": coordinator.save,
        "spend": coordinator.spend,
        "release": coordinator.release,
        "leave": coordinator.leave,
        "end": lambda _: peaks.append(coordinator.peak_since()),
    }
    idle = () if coordinator.viewed else ("save", "spend")
    for kind, module in events:
        if kind not in idle:
            steps[kind](module)
    return peaks
