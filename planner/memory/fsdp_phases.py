"""Memory of a step under PyTorch's FSDP2, phase by phase: its units
(planner/workload/fsdp_units.py) beside the micro-batch's own tensors.

read: torch/distributed/fsdp/_fully_shard at 2.13, _fsdp_param_group.py and _fsdp_state.py:

    root        gathered when forward begins, and whole until backward has ended (_lazy_init)
    tail        gathered when its first module runs, and whole until its backward pass has ended;
                where it has the embedding, which gets no gradient, until all of backward has
    others      whole while they run; in forward the buffer that they arrived in stays until the
                next unit's parameters have been copied (wait_for_unshard); in backward it goes, and
                that of the unit before is filled ahead (_backward_prefetch)
    gradients   of a unit whole, in the compute precision, until its backward pass has ended; then
                copied into the buffer that is reduced, which stays until the next unit's has gone
                the same way (post_backward)

    load        from host memory, unit by unit; each is whole on the device before it is cut
                (launcher/training/fully_sharded.py)
    save        what trains is gathered one parameter at a time, and taken to host memory

Micro-batches do not wait for each other: each reduces its gradients
(launcher/training/planned_trainer.py), and adds them to those of the rank's shards. With several
copies of the parameters they are added up within each copy, and the last micro-batch alone sums
over the copies (launcher/training/fully_sharded.py, reduce_between_copies): what is added up
(_partial_reduce_output) takes the place of the shards' gradients, to the byte. Summed in each
micro-batch, every unit's reduced part would stay beside its gradient until backward has ended
(_all_reduce_state).
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec import Struct

from planner.hardware.cluster import Device
from planner.memory.buffers import (
    Border,
    Buffers,
    Moment,
    Place,
    larger,
    pass_buffers,
    weights_buffers,
)
from planner.memory.micro_batch import Amounts, ForwardAlone, MicroBatch, Stretch, add_to
from planner.memory.optimizer_step import step_of
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import Phase
from planner.workload.dtypes import Numerics
from planner.workload.fsdp_units import Units, shard_tensors, units_of
from planner.workload.layout import Layout
from planner.workload.optimizers import states_bytes
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload


class _Sharded(Struct, frozen=True):
    """What the phases are made of."""

    units: Units
    held: Buffers
    """What every phase holds."""
    accumulates: bool
    """Whether the gradients of earlier micro-batches are there."""


def fsdp_moments(
    workload: Workload,
    layout: Layout,
    passes: MicroBatch,
    kinds: Numerics,
    device: Device,
) -> dict[Phase, Moment]:
    """Return the largest moment of each phase, workspaces of cuBLAS aside."""
    offloaded, units = layout.offload != "none", units_of(workload, layout, kinds)
    shards = _NO_SHARDS if offloaded else _shards(workload, layout.shard_ranks, kinds, device)
    weights = weights_buffers(
        workload.method,
        frozen=sum(unit.frozen_bytes for unit in units.all),
        trained=sum(unit.trained_bytes for unit in units.all),
    )
    sharded = _Sharded(
        units=units,
        held={**weights, "optimizer_states": shards.states},
        accumulates=layout.gradient_accumulation_steps > 1,
    )
    return {
        "load": Moment({**weights, "loaded_parameter": _loading_bytes(units)}),
        "forward": larger(*_forward(sharded, passes.ahead, passes.layers_forward, passes.forward)),
        "backward": larger(*_backward(sharded, passes)),
        "optimizer_step": Moment(
            {
                **sharded.held,
                "gradients": 0 if offloaded else units.gradients_bytes,
                "update": shards.update,
            }
        ),
        "save": Moment({**sharded.held, "saved_parameter": shards.saved}),
    }


def _loading_bytes(units: Units) -> int:
    """Return the bytes of a unit that is not cut yet beyond the shards that are to come, at the
    largest moment of the load."""
    most = after = 0
    for unit in units.all:
        most = max(most, unit.loaded_bytes - after)
        after += unit.frozen_bytes + unit.trained_bytes
    return most


class _Shards(Struct, frozen=True):
    """Bytes of what follows from one rank's parts of all that trains."""

    states: int
    """The optimizer's states."""
    update: int
    """The most that an update allocates."""
    saved: int
    """The largest parameter, which is whole to be written."""


_NO_SHARDS = _Shards(states=0, update=0, saved=0)
"""Nothing, where the host has all of it."""


@cached_by_settings(*TRAINED, "optimizer")
def _shards(workload: Workload, ranks: int, kinds: Numerics, device: Device) -> _Shards:
    tensors = shard_tensors(workload, ranks)
    optimizer = optimizers()[workload.settings.optimizer.name]
    states = states_bytes(optimizer, Counter(tensors), width=kinds.home, device=device)
    return _Shards(
        states=states.on_device,
        update=step_of(workload, tensors, width=kinds.home, device=device).num_bytes,
        saved=max(tensor.elements for tensor in tensors) * ranks * kinds.home,
    )


def forward_alone_moment(
    workload: Workload, layout: Layout, passed: ForwardAlone, kinds: Numerics, *, again: bool
) -> Moment:
    """Return the largest moment of a forward pass that no backward pass follows, beside what a
    step's forward pass holds anyway; ``again`` where another such pass was before it, which has
    left the tail whole."""
    units = units_of(workload, layout, kinds)
    sharded = _Sharded(units=units, held={}, accumulates=False)
    moments = _forward(sharded, passed.ahead, passed.layers, passed.whole, again=again)
    return larger(*moments, *_next_token(sharded, passed.cached))


def _next_token(sharded: _Sharded, cached: int) -> Iterator[Moment]:
    """Yield the moments at which units arrive for the next token, beside the keys and values of
    those before it, of which there are ``cached`` bytes; the tail is whole."""
    units = sharded.units
    order = [*([] if units.tied else [units.embedding]), *units.layers]
    before = [0, *(unit.buffer_bytes for unit in order)]
    arriving = [
        waiting + unit.buffer_bytes + unit.whole_bytes
        for waiting, unit in zip(before, order, strict=False)
    ]
    if cached:
        yield _during(
            sharded,
            Counter({"activations": cached}),
            Border(0),
            gradients=0,
            stays=units.root.whole_bytes + units.tail.whole_bytes,
            gathered=max(arriving),
        )


def _forward(
    sharded: _Sharded,
    ahead: Sequence[Stretch],
    in_layers: Amounts,
    whole: Amounts,
    *,
    again: bool = False,
) -> Iterator[Moment]:
    """Yield the largest moments of forward: when a unit arrives, while layers run, and the head's.

    The buffer of the unit before goes when the next one's parameters have been copied. ``again``
    says whether the tail is whole from the start.
    """
    units = sharded.units
    gradients = units.gradients_bytes if sharded.accumulates else 0
    stays = units.root.whole_bytes + (units.tail.whole_bytes if units.tied or again else 0)
    buffer_bytes = units.tail.buffer_bytes if units.tied else units.embedding.buffer_bytes
    if units.tied and again:
        buffer_bytes = 0
    level: Amounts = Counter()
    if again and not units.tied:
        yield _during(
            sharded,
            level,
            Border(0),
            gradients=gradients,
            stays=stays,
            gathered=units.embedding.buffer_bytes + units.embedding.whole_bytes,
        )
    tails = () if units.tied or again else (units.tail,)
    for number, (stretch, unit) in enumerate(zip(ahead, [*units.layers, *tails], strict=False)):
        add_to(level, stretch.net)
        yield _during(
            sharded,
            level.copy(),
            Border(number),
            gradients=gradients,
            stays=stays,
            gathered=buffer_bytes + unit.buffer_bytes + unit.whole_bytes,
        )
        buffer_bytes = unit.buffer_bytes
    largest = max(units.layers, key=lambda unit: unit.whole_bytes)
    yield _during(
        sharded,
        in_layers,
        "layers_forward",
        gradients=gradients,
        stays=stays,
        gathered=largest.whole_bytes + largest.buffer_bytes,
    )
    yield _during(
        sharded,
        whole,
        "forward",
        gradients=gradients,
        stays=units.root.whole_bytes + units.tail.whole_bytes,
        gathered=buffer_bytes,
    )


def _during(
    sharded: _Sharded,
    alive: Amounts,
    place: Place,
    *,
    gradients: int,
    stays: int,
    gathered: int,
    reduced: int = 0,
) -> Moment:
    return Moment(
        {
            **sharded.held,
            **pass_buffers(alive),
            "gradients": gradients,
            "new_gradients": alive["gradients"],
            "persistent": stays,
            "gathered": gathered,
            "reduce_buckets": reduced,
        },
        place,
    )


def _backward(sharded: _Sharded, passes: MicroBatch) -> Iterator[Moment]:
    """Yield the largest moments of backward: the head's, each layer's, the embedding's."""
    units = sharded.units
    root, tail = units.root, units.tail
    gradients = units.gradients_bytes if sharded.accumulates else 0
    ahead = [unit.buffer_bytes for unit in reversed(units.layers)] + [units.embedding.buffer_bytes]
    yield _during(
        sharded,
        passes.head_backward,
        "head_backward",
        gradients=gradients,
        stays=root.whole_bytes + tail.whole_bytes,
        gathered=ahead[0],
    )
    alive, reduced, stays = passes.before_layers.copy(), 0, root.whole_bytes
    if units.tied:
        stays += tail.whole_bytes
    else:
        yield _during(
            sharded,
            alive,
            "before_layers",
            gradients=gradients + tail.gradient_bytes,
            stays=stays,
            gathered=ahead[0],
            reduced=tail.reduced_bytes,
        )
        alive["gradients"], reduced = 0, tail.reduced_bytes
        gradients += 0 if sharded.accumulates else tail.gradient_bytes
    for place, (unit, layer) in enumerate(
        zip(reversed(units.layers), passes.layers[:-1], strict=True)
    ):
        before = units.layers[-2 - place] if place + 1 < len(units.layers) else units.embedding
        top = alive.copy()
        add_to(top, layer.top)
        yield _during(
            sharded,
            top,
            place,
            gradients=gradients,
            stays=stays,
            gathered=unit.whole_bytes
            + before.buffer_bytes
            + max(0, before.cast_bytes - layer.top_bytes),
            reduced=reduced,
        )
        add_to(alive, layer.net)
        alive["gradients"] -= layer.net["gradients"]
        reduced = unit.reduced_bytes
        gradients += 0 if sharded.accumulates else unit.gradient_bytes
    yield from _end(sharded, passes, alive, gradients, stays=stays, reduced=reduced)


def _end(
    sharded: _Sharded,
    passes: MicroBatch,
    alive: Amounts,
    gradients: int,
    *,
    stays: int,
    reduced: int,
) -> Iterator[Moment]:
    """Yield the embedding's backward pass, and the reduction of what is left."""
    units, place = sharded.units, len(passes.layers) - 1
    top = alive.copy()
    add_to(top, passes.layers[-1].top)
    last = units.tail if units.tied else units.embedding
    trains = units.embedding.reduced_bytes > 0
    yield _during(
        sharded,
        top,
        place,
        gradients=gradients,
        stays=stays,
        gathered=units.embedding.whole_bytes if trains else units.embedding.buffer_bytes,
        reduced=reduced,
    )
    yield _during(
        sharded,
        top,
        place,
        gradients=gradients + last.gradient_bytes,
        stays=units.root.whole_bytes,
        gathered=0,
        reduced=last.reduced_bytes,
    )
