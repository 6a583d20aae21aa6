"""Every state of a grid around a plan, priced as ``plan`` would price it with these options.

The grid is method x cards x tokens per sample x micro-batch size x recomputation. What is implied
is not priced: more samples or longer ones do not fit where fewer or shorter ones of the same kind
of step do not (tests/planner/decision/test_state_grid.py prices them).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from msgspec import structs

from planner.base.errors import InvalidRequestError, UserError, reason_of
from planner.decision.choose import TIGHT_SHARE
from planner.decision.method_search import search_method
from planner.decision.refusals import refusal
from planner.decision.request import Request
from planner.decision.request_checks import check
from planner.decision.requested_workload import workload
from planner.hardware.cluster import Cluster
from planner.hardware.detect import parse_gpus
from planner.hardware.multi_node import over_nodes
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHODS, Method
from planner.search.candidate import Candidate
from planner.workload.layout import recomputation_order

CARDS = (1, 2, 4, 8)
LENGTHS = (1024, 2048, 4096, 8192)
MICRO_BATCHES = (1, 2, 4, 8)
MOST_PASSED = 144
"""Methods x recomputation x lengths x micro-batch sizes of a grid, times the layers of a pass, as
far as micro-batch sizes can be left out: so many take two seconds on a core of 2024 where nearly
all fit, and less where a part is implied. A model with several kinds of layers, as Gemma has with
windows in some, has one length less, too."""
FEWEST_USUAL = 2
"""Micro-batch sizes beside the plan's own that a grid has in any case."""


Place = tuple[int, int, int, int, int]
"""Indices on the axes, in their order."""
Step = tuple[Method, int, int]
"""Method, interval of recomputation and number of cards: what a row of the grid shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A number of cards, and what ``--gpus`` calls them."""

    count: int
    """Cards of one node."""
    gpus: str
    cluster: Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The values of the grid."""

    methods: tuple[Method, ...]
    machines: tuple[Machine, ...]
    lengths: tuple[int, ...]
    """Tokens per sample."""
    micro_batch_sizes: tuple[int, ...]
    checkpointing: tuple[int, ...]
    """Intervals of recomputation in layers; 0 where no layer is recomputed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One state of the grid."""

    candidate: Candidate | None
    """The best candidate, or the leanest one where none fits; None where it was not priced."""
    budget_bytes: int
    """Bytes of one device that a plan may use there."""
    fits: bool = False
    refusal: str | None = None
    """Why ``plan`` refuses these options; None where it does not."""

    @property
    def tight(self) -> bool:
        """Whether the state fits with little memory to spare."""
        if self.candidate is None or not self.fits:
            return False
        spare = self.budget_bytes - self.candidate.memory.high_bytes
        return spare < TIGHT_SHARE * self.budget_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StateGrid:
    """The axes, and a state for each combination of their values in the order of the axes."""

    axes: Axes
    states: tuple[State, ...]
    chosen: Place
    """The plan's place on every axis."""


def state_grid(request: Request, chosen: Candidate, gpus: str) -> StateGrid | None:
    """Return the states around a plan; None for a traced model, whose every state would be a trace.

    ``gpus`` is the request's own ``--gpus``.
    """
    if isinstance(request.model.spec, TracedSpec):
        return None
    axes = _axes(request, chosen, gpus)
    priced = dict(_priced(request, axes))
    return StateGrid(
        axes=axes,
        states=tuple(priced[place] for place in sorted(priced)),
        chosen=(
            axes.methods.index(chosen.method),
            [machine.count for machine in axes.machines].index(request.cluster.gpus_per_node),
            axes.lengths.index(chosen.workload.settings.sequence_length),
            axes.micro_batch_sizes.index(chosen.layout.micro_batch_size),
            axes.checkpointing.index(chosen.layout.checkpointing),
        ),
    )


def _axes(request: Request, chosen: Candidate, gpus: str) -> Axes:
    most, own = request.model.spec.max_position_embeddings, chosen.workload.settings
    methods = request.methods if request.recipe is not None else METHODS
    passed_layers = 1 + len(request.model.spec.kinds)  # the first one, and one of each kind
    usual_lengths = LENGTHS if passed_layers == 2 else LENGTHS[1:]
    lengths = {*(each for each in usual_lengths if each <= most), own.sequence_length}
    intervals = {0, chosen.layout.checkpointing, 1}
    own_size = chosen.layout.micro_batch_size
    room = MOST_PASSED // (len(methods) * len(lengths) * len(intervals) * passed_layers)
    usual = [size for size in MICRO_BATCHES if size != own_size][: max(FEWEST_USUAL, room - 1)]
    return Axes(
        methods=methods,
        machines=_machines(request.cluster, gpus),
        lengths=tuple(sorted(lengths)),
        micro_batch_sizes=tuple(sorted({*usual, own_size})),
        checkpointing=tuple(sorted(intervals, key=recomputation_order, reverse=True)),
    )


def _machines(own: Cluster, gpus: str) -> tuple[Machine, ...]:
    """Return the machine itself, and others with more or fewer such cards, where they have a name
    and can be used together."""
    machines = {own.gpus_per_node: Machine(count=own.gpus_per_node, gpus=gpus, cluster=own)}
    card = own.accelerator
    if own.device == "cuda" and not card.is_slice and not card.unified_memory:
        for count in CARDS:
            machine = _machine(own, count)
            if machine is not None:
                machines.setdefault(count, machine)
    return tuple(machines[count] for count in sorted(machines))


def _machine(own: Cluster, count: int) -> Machine | None:
    gpus = f"{count}x{own.accelerator.label}" if count > 1 else own.accelerator.label
    try:
        cluster = over_nodes(parse_gpus(gpus), own.num_nodes, own.network)
    except UserError:
        return None
    return Machine(count=count, gpus=gpus, cluster=cluster)


def _priced(request: Request, axes: Axes) -> Iterator[tuple[Place, State]]:
    """Yield every state by its place.

    Those that differ in the machine alone follow each other, since they share passes through the
    model, and fewer and shorter samples come before more and longer ones.
    """
    known = _TooLarge(found={})
    for (m, method), (r, every), n, b, (c, machine) in product(
        enumerate(axes.methods),
        enumerate(axes.checkpointing),
        range(len(axes.lengths)),
        range(len(axes.micro_batch_sizes)),
        enumerate(axes.machines),
    ):
        place = m, c, n, b, r
        asked = request_at(request, axes, place)
        yield place, _state(asked, method, (method, every, machine.count), known)


def request_at(request: Request, axes: Axes, place: Place) -> Request:
    """Return the request with the options of one state."""
    method, machine, length, size, every = place
    interval = axes.checkpointing[every]
    return structs.replace(
        request,
        cluster=axes.machines[machine].cluster,
        method=axes.methods[method],
        sequence_length=axes.lengths[length],
        micro_batch_size=axes.micro_batch_sizes[size],
        activation_checkpointing=interval > 0,
        checkpoint_every=interval if interval > 1 else None,
    )


def _state(asked: Request, method: Method, step: Step, known: "_TooLarge") -> State:
    """Return the state of one request, which fits nowhere that ``known`` implies it does not."""
    try:
        check(asked)
    except InvalidRequestError as error:
        return State(candidate=None, budget_bytes=asked.budget_bytes, refusal=reason_of(error))
    samples = workload(asked, method).settings.global_batch_size // asked.data_ranks
    size, length = asked.micro_batch_size or samples, asked.sequence_length or 0
    kind = (*step, size < samples)
    if known.implies(kind, length, size):
        return State(candidate=None, budget_bytes=asked.budget_bytes)
    result = search_method(asked, method)
    best = result.best
    if best is None and result.series:
        known.found.setdefault(kind, []).append((length, size))
    candidate = best or result.leanest
    reason = None if candidate is not None else refusal(asked)
    return State(
        candidate=candidate,
        budget_bytes=asked.budget_bytes,
        fits=best is not None,
        refusal=reason,
    )


@dataclass(frozen=True, slots=True)
class _TooLarge:
    """Lengths and micro-batch sizes that do not fit, by the kind of step."""

    found: dict[tuple[Method, int, int, bool], list[tuple[int, int]]]

    def implies(self, kind: tuple[Method, int, int, bool], length: int, size: int) -> bool:
        """Return whether no more samples that are no longer do not fit."""
        return any(n <= length and b <= size for n, b in self.found.get(kind, ()))
