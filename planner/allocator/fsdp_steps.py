"""Two steps of one rank under PyTorch's FSDP2 as the allocator sees them.

read: torch/distributed/fsdp/_fully_shard at 2.13, _fsdp_collectives.py and _fsdp_param_group.py:
the buffers in which parts arrive belong to the stream that gathers, the gradients of a rank's
shards to the one that reduces, and all else to the main stream, where whole parameters come and go
with their unit. Which buffer is on which stream is as simulated cards have it.
"""

from collections.abc import Iterator, Sequence

from msgspec import structs

from planner.allocator.few_layers import FewLayers, Inserted, micro_batch, workspaces_of
from planner.allocator.held_sizes import STEPS
from planner.allocator.large_requests import (
    Request,
    Sizes,
    allocated,
    changed,
    reserved_bytes,
)
from planner.allocator.pass_trace import Change
from planner.allocator.pools import LARGE_SEGMENT_BYTES
from planner.base.units import round_up
from planner.workload.fsdp_units import Unit, Units


def fsdp_requests(
    run: FewLayers,
    units: Units,
    *,
    resident: int,
    loaded: int,
    states: Sizes,
    update: Sequence[Change],
    workspaces: Sizes,
) -> Iterator[Request]:
    """Yield two steps of one rank on its main stream, whose shards take ``resident`` bytes, and
    ``loaded`` more while the last of them are cut."""
    run = structs.replace(
        run, left_out=[structs.replace(layer, gradients=[]) for layer in run.left_out]
    )
    reduced_at_the_end = units.tail if units.tied else units.embedding
    yield "resident", resident
    yield "loaded", loaded
    yield "loaded", 0
    for step in range(STEPS):
        made = workspaces_of(run.trace, [] if step else workspaces)
        yield "root", units.root.whole_bytes
        yield from micro_batch(step, run, [*made, *_units_of(step, run, units)])
        last = len(run.trace.passed)
        yield from _reduced(step, run, last, reduced_at_the_end)
        yield (step, "reduced", last), 0
        yield "root", 0
        yield "tail", 0
        if step == 0:
            yield from allocated("state", states, run.least_bytes)
        yield from changed((step, "update"), update, run.least_bytes)


def _units_of(step: int, run: FewLayers, units: Units) -> Inserted:
    """Yield what comes and goes of the units as a micro-batch enters and leaves each layer."""
    trace, layers = run.trace, _layers_of(run, units)
    whole = list(enumerate(unit.whole_bytes for unit in layers))
    if units.tied:
        yield 0, [("tail", units.tail.whole_bytes)]
    else:
        yield 0, [("embedding", units.embedding.whole_bytes)]
        yield trace.layers[0], [("embedding", 0)]
        yield trace.layers[-1], [("tail", units.tail.whole_bytes)]
        yield trace.passed[0], _reduced(step, run, 0, units.tail)
        yield trace.passed[0], [("tail", 0)]
    for number, num_bytes in whole:
        yield trace.layers[number], [(("whole", number), num_bytes)]
        yield trace.layers[number + 1], [(("whole", number), 0)]
    for place, (number, num_bytes) in enumerate(reversed(whole)):
        yield trace.passed[place], [(("whole", number), num_bytes)]
        yield trace.passed[place + 1], _reduced(step, run, place + 1, layers[number])
        yield trace.passed[place + 1], [(("whole", number), 0)]


def _layers_of(run: FewLayers, units: Units) -> list[Unit]:
    """Return the unit of each layer that runs; where one stands for others, the largest."""
    if len(run.trace.layers) == 1 + len(units.layers):
        return list(units.layers)
    largest = max(units.layers, key=lambda unit: unit.whole_bytes)
    return [units.layers[0], *([largest] * (len(run.counts) - 1))]


def _reduced(step: int, run: FewLayers, place: int, unit: Unit) -> Iterator[Request]:
    """Yield the end of a unit's backward pass: its gradients are copied into a buffer and go, and
    then the buffer of the unit before. Places are those where backward leaves a layer."""
    borders = [0, *run.trace.passed, len(run.trace.changes)]
    yield (step, "reduced", place), unit.reduced_bytes
    for position, number in run.trace.kept.items():
        if borders[place] < position <= borders[place + 1]:
            yield (step, number), 0
    yield (step, "reduced", place - 1), 0


def side_bytes(units: Units, *, accumulates: bool, to_host: int) -> int:
    """Return what the streams reserve that gather and reduce: buffers that whole parameters arrive
    in, and the gradients of all shards, beside which those of a later micro-batch come to be added;
    or, of shards in host memory, the largest of so many bytes on its way there. Of several copies
    those of a whole backward pass are there until it has ended, with shards in host memory too.
    """
    later = max(unit.gradient_bytes for unit in units.all) if accumulates else 0
    gradients = round_up(units.gradients_bytes + later + to_host, LARGE_SEGMENT_BYTES)
    return reserved_bytes(_gathered(units)) + gradients


def _gathered(units: Units) -> Iterator[Request]:
    """Yield a forward pass of the stream that gathers: what a rank casts of its part goes when it
    is sent, and a buffer when the next one has been asked for."""
    first, last = ([units.tail], []) if units.tied else ([units.embedding], [units.tail])
    for number, unit in enumerate([units.root, *first, *units.layers, *last]):
        yield ("cast", number), unit.cast_bytes
        yield ("buffer", number), unit.buffer_bytes
        yield ("cast", number), 0
        yield ("buffer", number - 1), 0
