"""The tensors of a micro-batch that are alive at the largest moment of a phase, by name.

The pass runs on the tape as it does for the prediction, but through every layer of the model, so
that a ledger's sums hold the prediction to account.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from planner.forward.model_pass import ModelPass, passed_layers
from planner.memory.buffers import Ahead, Arrival, Border, Late, Place
from planner.memory.footprint import Moments, gradient_sink, waits_above
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import Phase
from planner.search.candidate import Candidate
from planner.tape.tensors import Owner, StorageEvent
from planner.workload.dtypes import numerics_of
from planner.workload.zero_sizes import zero_section


@dataclass(frozen=True, slots=True, kw_only=True)
class AliveTensors:
    """Tensors of one name and owner that are alive at one moment."""

    owner: Owner
    name: str
    count: int
    num_bytes: int


Ledger = tuple[AliveTensors, ...]
"""The tensors at one moment, largest first."""


def ledgers(candidate: Candidate, moments: Moments) -> Mapping[Phase, Ledger]:
    """Return the ledger of each phase that a pass runs in; none for a traced model, whose steps
    are those of the real one."""
    if isinstance(candidate.workload.model, TracedSpec):
        return {}
    run = _pass_of(candidate)
    return {
        phase: alive(run.tape.log[: _end_of_moment(run, moment.place)])
        for phase, moment in moments.items()
        if moment.place is not None
    }


def owned_bytes(ledger: Iterable[AliveTensors], owner: Owner) -> int:
    """Return the bytes of the tensors that belong to ``owner``."""
    return sum(tensors.num_bytes for tensors in ledger if tensors.owner == owner)


def alive(log: Sequence[StorageEvent]) -> Ledger:
    """Return what is alive when ``log`` ends."""
    sizes: Counter[tuple[Owner, str]] = Counter()
    counts: Counter[tuple[Owner, str]] = Counter()
    for num_bytes, owner, _, name in log:
        sizes[owner, name] += num_bytes
        counts[owner, name] += 1 if num_bytes > 0 else -1
    tensors = [
        AliveTensors(owner=owner, name=name, count=counts[owner, name], num_bytes=num_bytes)
        for (owner, name), num_bytes in sizes.items()
        if num_bytes
    ]
    return tuple(sorted(tensors, key=lambda each: -each.num_bytes))


def _pass_of(candidate: Candidate) -> ModelPass:
    layout = candidate.layout
    workload = candidate.workload.of_a_rank(layout)
    zero = zero_section(workload, layout)
    return ModelPass(
        workload,
        candidate.worst_batch,
        numerics_of(workload, layout),
        layers=passed_layers(workload.model, layout.checkpointing),
        sink=gradient_sink(layout) if zero is None else "reduce",
        reduce_bucket_size=0 if zero is None else waits_above(workload, layout, zero),
    )


def _end_of_moment(run: ModelPass, place: Place) -> int:
    """Return how many events of the log lead to the largest moment of a place in the pass."""
    start, stop = _stretch(run, place)
    levels = list(accumulate((num_bytes for num_bytes, *_ in run.tape.log), initial=0))
    if isinstance(place, Arrival):
        arrivals = [arrival for arrival in run.tape.arrivals if start < arrival <= stop]
        return max(arrivals or [run.tape.arrivals[-1]], key=levels.__getitem__)
    if isinstance(place, Late):
        start = min(arrival for arrival in run.tape.arrivals if start < arrival <= stop)
    return max(range(start, stop + 1), key=levels.__getitem__)


def _stretch(run: ModelPass, place: Place) -> tuple[int, int]:
    """Return the events between which a place in the pass lies."""
    backward, end = run.casts_gone[-1], len(run.tape.log)
    if isinstance(place, Border):
        _, border = run.tape.borders[place.layer]
        return border, border
    if isinstance(place, Ahead):
        (_, begins), (_, ends) = run.tape.borders[place.layer : place.layer + 2]
        return begins, ends
    if isinstance(place, Arrival | Late | int):
        borders = [backward, *run.tape.passed, end, end]
        number = place if isinstance(place, int) else place.stretch
        return borders[number + 1], borders[number + 2]
    _, last_border = run.tape.borders[-1]
    stretches = {
        "layers_forward": (0, last_border),
        "forward": (0, run.casts_gone[0]),
        "head_backward": (backward, run.tape.passed[0]),
        "before_layers": (run.tape.passed[0], run.tape.passed[0]),
        "backward": (backward, end),
    }
    return stretches[place]
