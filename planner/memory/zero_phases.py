"""Memory of a step under DeepSpeed, phase by phase: planner/memory/zero_1_2.py, zero_3.py and
zero_3_gathering.py beside the micro-batch's own tensors."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from msgspec import Struct, structs

from planner.base.units import block
from planner.hardware.cluster import Device
from planner.memory.buffers import (
    IN_HEAD,
    Ahead,
    Arrival,
    Border,
    Buffers,
    Late,
    Moment,
    Place,
    larger,
    pass_buffers,
    weights_buffers,
)
from planner.memory.micro_batch import (
    Amounts,
    ForwardAlone,
    MicroBatch,
    Stretch,
    add_to,
    stretch,
)
from planner.memory.model_states import frozen_bytes
from planner.memory.zero_1_2 import FlatStates, flat_states
from planner.memory.zero_3 import SlicedStates, sliced_states
from planner.memory.zero_3_alone import largest_alone
from planner.memory.zero_3_gathering import GatheredBytes, gathered_parameters
from planner.memory.zero_reductions import Reductions, reductions, scatter_copies
from planner.models.traced_model import TracedSpec
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import Phase
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.workload import Batch, Workload
from planner.workload.zero_sizes import zero_section


def zero_moments(
    workload: Workload,
    layout: Layout,
    passes: MicroBatch,
    kinds: Numerics,
    zero: ZeroSection,
    device: Device,
    *,
    loading: int,
) -> dict[Phase, Moment]:
    """Return the largest moment of each phase, workspaces of cuBLAS aside; ``loading`` are the
    bytes that a load takes beside weights that come whole to the device."""
    if layout.zero_stage == 3:
        return _stage_3(workload, layout, passes, kinds, zero, device, loading)
    offloaded = layout.offload != "none"
    states = flat_states(
        workload, layout.world_size, zero, kinds, offloaded=offloaded, device=device
    )
    weights = weights_buffers(
        workload.method, frozen=frozen_bytes(workload, kinds), trained=states.weights_bytes
    )
    held: Buffers = {
        **weights,
        "master_copies": states.copies_bytes,
        "optimizer_states": states.own_states_bytes,
        "offload_buffer": states.held_buffer_bytes,
    }
    return {
        "load": _flat_load(states, weights, block(loading)),
        "forward": _pass(
            held,
            passes.forward,
            "forward",
            gradients=earlier_gradients(workload, layout, states),
            more={"reduce_buckets": _waiting_buckets(layout, states)},
        ),
        "backward": _backward(workload, layout, states, held, passes),
        "optimizer_step": Moment(
            {
                **held,
                "gradients": states.touched_bytes(states.stepping_rank),
                "update": states.step_bytes,
            }
        ),
        "save": Moment(held),
    }


def _flat_load(states: FlatStates, weights: Buffers, loading: int) -> Moment:
    """Return the larger of what loading takes beside the weights, and of DeepSpeed's setup."""
    return larger(
        Moment({**weights, "loading": loading}),
        Moment(
            {
                **weights,
                "master_copies": states.copies_bytes,
                "setup_gradients": states.setup_bytes,
                "offload_buffer": states.held_buffer_bytes,
            }
        ),
    )


def _pass(
    held: Buffers, alive: Amounts, place: Place, *, gradients: int, more: Buffers | None = None
) -> Moment:
    return Moment(
        {
            **held,
            **pass_buffers(alive),
            "gradients": gradients,
            "new_gradients": alive["gradients"],
            **(more or {}),
        },
        place,
    )


def earlier_gradients(workload: Workload, layout: Layout, states: FlatStates) -> int:
    """Return bytes of gradients of the micro-batches before: ZeRO-1 adds them up whole."""
    if layout.gradient_accumulation_steps == 1 or states.offloaded:
        return 0
    if layout.zero_stage == 1:
        return workload.trainable_params * states.kinds.gradient
    return states.gradients_bytes


def _backward(
    workload: Workload, layout: Layout, states: FlatStates, held: Buffers, passes: MicroBatch
) -> Moment:
    """Return the largest of: the head, before a gradient is there, and each rank's way through
    the head and the layers, with the buckets and what it has reduced.

    Where ZeRO-1 adds up whole gradients, the head's is added to the one that is there, and waits
    for nothing.
    """
    earlier = earlier_gradients(workload, layout, states)
    waiting: Buffers = {"reduce_buckets": _waiting_buckets(layout, states)}
    buckets: Buffers = {"reduce_buckets": states.buckets_bytes}
    in_head = passes.arriving_in_head
    first = 0 if in_head is not None else _first_arrival(passes)
    moments = [_pass(held, passes.head_backward, "head_backward", gradients=earlier, more=waiting)]
    for rank in _reductions(workload, layout, states):
        (level, copy), *levels = zip(gradient_levels(earlier, rank), rank.copies, strict=True)
        if in_head is not None:
            gradients, copy = in_head_level(level, copy)
            more: Buffers = {**buckets, "reduced_copy": copy}
            alive: tuple[Amounts, Place] = (in_head, Arrival(IN_HEAD))
            if layout.zero_stage == 1 and layout.gradient_accumulation_steps > 1:
                alive = passes.before_layers, "before_layers"
            moments.append(_pass(held, *alive, gradients=gradients, more=more))
        beside = [
            _Beside(
                level.at_top,
                level.at_copy,
                copy,
                buckets,
                at_first=waiting if number <= first and in_head is None else buckets,
            )
            for number, (level, copy) in enumerate(levels)
        ]
        moments.append(_through_layers(held, passes, beside, first=first))
    return larger(*moments)


def _first_arrival(passes: MicroBatch) -> int:
    """Return the number of the first stretch of the layers' backward pass in which a gradient
    arrives, which is when DeepSpeed makes its buckets: stage_1_and_2.py, setup_buckets."""
    return next((n for n, each in enumerate(passes.layers) if each.arrives), 0)


class _Beside(Struct, frozen=True):
    """Bytes beside a pass in one stretch of backward."""

    gradients: int
    """Bytes of gradients at its largest moment."""
    gradients_at_copy: int
    """Bytes of gradients when its largest copy is made."""
    copy: int
    more: Buffers
    at_first: Buffers | None = None
    """What else is there before the first gradient, where that is less."""

    @property
    def at_top(self) -> tuple[int, Buffers]:
        """Gradients and the rest at its largest moment."""
        return self.gradients, self.more if self.at_first is None else self.at_first

    @property
    def at_late(self) -> tuple[int, Buffers]:
        """Gradients and the rest at its largest moment from the first gradient on."""
        return self.gradients, self.more

    @property
    def at_copy(self) -> tuple[int, Buffers]:
        """Gradients and the rest when its largest copy is made."""
        return self.gradients_at_copy, {**self.more, "reduced_copy": self.copy}


def _reductions(workload: Workload, layout: Layout, states: FlatStates) -> tuple[Reductions, ...]:
    return reductions(
        workload,
        layout.world_size,
        states.zero,
        states.kinds,
        stage=layout.zero_stage,
        accumulates=layout.gradient_accumulation_steps > 1,
        offloaded=states.offloaded,
        shares_sequences=layout.sequence_ranks > 1,
    )


def largest_copy_bytes(
    workload: Workload, layout: Layout, kinds: Numerics, zero: ZeroSection, device: Device
) -> int:
    """Return the bytes of the largest copy that a reduction of gradients makes."""
    ranks, offload = layout.world_size, layout.offload
    if layout.zero_stage == 3:
        return max(scatter_copies(workload, ranks, zero, kinds, offload=offload))
    states = flat_states(workload, ranks, zero, kinds, offloaded=offload != "none", device=device)
    return max(max(rank.copies) for rank in _reductions(workload, layout, states))


def _through_layers(
    held: Buffers, passes: MicroBatch, beside: Sequence[_Beside], *, first: int = 0
) -> Moment:
    """Return the largest moment of the layers' backward pass, beside what is held in each stretch
    and after the last one; the first gradient arrives in the stretch ``first``.

    Copies are made when a gradient arrives, which need not be when a stretch has most.
    """
    waiting = passes.waiting
    ended = structs.replace(stretch([]), arriving=waiting, arriving_bytes=waiting.total())
    stretches = [*passes.layers, ended]
    before = list(accumulate([each.net_bytes for each in passes.layers], initial=0))
    tops, arrivals = [
        [
            total + num_bytes + sum(more.values()) + gradients
            for total, num_bytes, (gradients, more) in zip(before, sizes, others, strict=True)
        ]
        for sizes, others in (
            ([each.top_bytes for each in stretches], [each.at_top for each in beside]),
            ([each.arriving_bytes for each in stretches], [each.at_copy for each in beside]),
        )
    ]
    gradients, more = beside[first].at_late
    late = before[first] + stretches[first].late_bytes + sum(more.values()) + gradients
    most = max(*arrivals, *tops, late)
    place: Place
    if max(tops) == most:
        number = place = tops.index(most)
        added, (gradients, more) = stretches[number].top, beside[number].at_top
    elif late == most:
        number, place, added = first, Late(first), stretches[first].late
    else:
        number = arrivals.index(most)
        place = Arrival(number)
        added, (gradients, more) = stretches[number].arriving, beside[number].at_copy
    alive = passes.before_layers.copy()
    for each in passes.layers[:number]:
        add_to(alive, each.net)
    add_to(alive, added)
    return _pass(held, alive, place, gradients=gradients, more=more)


class GradientLevel(Struct, frozen=True):
    """Bytes of gradients in one stretch of backward."""

    at_top: int
    """Bytes at its largest moment."""
    at_copy: int
    """Bytes when its largest copy is made."""


def in_head_level(level: GradientLevel, copy: int) -> tuple[int, int]:
    """Return the bytes of gradients and of a copy of them when most is there while one is reduced
    before the layers' backward passes: with the copy, or when the rank's buffer has been made, for
    what it is filled from is still there."""
    return max((level.at_copy, copy), (level.at_top, 0), key=sum)


def gradient_levels(start: int, rank: Reductions) -> Iterator[GradientLevel]:
    """Yield the bytes of gradients in each stretch and after the last one; what goes in one is
    there until its end."""
    for gained, before, freed in zip(rank.gained, rank.gained_before, rank.freed, strict=True):
        yield GradientLevel(start + gained, start + before)
        start += gained - freed


def _waiting_buckets(layout: Layout, states: FlatStates) -> int:
    """Return the bytes of buckets that outlive a micro-batch: ZeRO-1 makes them in the first one
    and drops them after the last."""
    waits = layout.zero_stage == 1 and layout.gradient_accumulation_steps > 1
    return states.buckets_bytes if waits else 0


def _stage_3(
    workload: Workload,
    layout: Layout,
    passes: MicroBatch,
    kinds: Numerics,
    zero: ZeroSection,
    device: Device,
    loading: int,
) -> dict[Phase, Moment]:
    ranks = layout.world_size
    states = sliced_states(workload, ranks, zero, kinds, offload=layout.offload, device=device)
    quantized = workload.settings.quantization is not None
    frozen = frozen_bytes(workload, kinds) if quantized else states.weights_bytes
    weights = weights_buffers(workload.method, frozen=frozen, trained=states.trained_bytes)
    held: Buffers = {
        **weights,
        "master_copies": states.copies_bytes,
        "optimizer_states": states.own_states_bytes,
        "reduce_buckets": states.bucket_bytes,
        "persistent": states.persistent_bytes,
    }
    whole = gathered_bytes(workload, layout, zero, kinds)
    copies = scatter_copies(workload, ranks, zero, kinds, offload=layout.offload)
    return {
        "load": _stage_3_load(
            states,
            weights,
            0 if quantized else states.largest_loaded_bytes,
            block(loading) if quantized else 0,
        ),
        **_stage_3_passes(held, passes, states, whole, copies),
        "optimizer_step": _stage_3_step(states, held),
        "save": Moment(
            {
                **held,
                "gradients": states.gradients_bytes,
                "persistent": 0,
                "saved_parameter": max(states.persistent_bytes, states.largest_module_bytes),
            }
        ),
    }


def gathered_bytes(
    workload: Workload, layout: Layout, zero: ZeroSection, kinds: Numerics
) -> GatheredBytes:
    """Return the whole parameters of ZeRO-3 at the largest moments of a step."""
    return gathered_parameters(
        workload,
        layout.world_size,
        zero,
        checkpointing=layout.checkpointing,
        width=kinds.compute,
        from_host=layout.offload == "all",
    )


def gathered_alone(
    workload: Workload, layout: Layout, batch: Batch, passed: ForwardAlone, *, again: bool
) -> Moment:
    """Return the largest moment of a forward pass that no backward pass follows, with what ZeRO-3
    holds and gathers beside it; ``again`` where an evaluation was before it."""
    zero = zero_section(workload, layout)
    assert zero is not None
    kinds, ranks = numerics_of(workload, layout), layout.world_size
    states = sliced_states(workload, ranks, zero, kinds, offload=layout.offload, device="cuda")
    held: Buffers = {
        "reduce_buckets": states.bucket_bytes,
        "persistent": states.persistent_bytes,
    }
    if isinstance(workload.model, TracedSpec):
        whole = gathered_bytes(workload, layout, zero, kinds)
        most = max(whole.embedding, *whole.forward, whole.before_head, whole.head)
        return Moment({**held, **pass_buffers(passed.whole), "gathered": most})
    found = largest_alone(
        workload,
        batch,
        kinds,
        ranks=ranks,
        zero=zero,
        checkpointing=layout.checkpointing,
        from_host=layout.offload == "all",
        cached=passed.cached if again else None,
    )
    return Moment({**held, **pass_buffers(found.alive), "gathered": found.gathered})


def _stage_3_load(states: SlicedStates, weights: Buffers, whole_bytes: int, loading: int) -> Moment:
    """Return the largest of three moments: the load, with one whole parameter where parameters are
    sharded, and two of the setup."""
    copies = states.copies_bytes
    return larger(
        Moment({**weights, "loaded_parameter": whole_bytes, "loading": loading}),
        Moment({**weights, "master_copies": copies, "setup_copy": states.setup_bytes}),
        Moment(
            {
                **weights,
                "master_copies": copies,
                "gradients": states.gradients_bytes,
                "reduce_buckets": states.bucket_bytes,
                "hooked_parameter": states.hooked_bytes,
            }
        ),
    )


def _stage_3_passes(
    held: Buffers,
    passes: MicroBatch,
    states: SlicedStates,
    whole: GatheredBytes,
    copies: Sequence[int],
) -> dict[Phase, Moment]:
    """Return forward and backward beside what is gathered at the time."""

    def during(alive: Amounts, place: Place, whole_bytes: int) -> Moment:
        more: Buffers = {"gathered": whole_bytes}
        return _pass(held, alive, place, gradients=states.gradients_bytes, more=more)

    before = passes.ahead[0].net if passes.ahead else stretch([]).net
    in_forward = whole.in_forward(from_host=states.offload == "all")
    gradients = states.gradients_bytes
    gathered = [*whole.in_backward, 0]
    first_copy, *in_layers = copies
    beside = [
        _Beside(gradients, gradients, copy, {"gathered": whole_bytes})
        for whole_bytes, copy in zip(gathered, in_layers, strict=True)
    ]
    return {
        "forward": larger(
            during(before, Border(0), whole.embedding),
            during(*_ahead_in_layers(passes, in_forward)),
            during(
                _added_up(passes.ahead), Border(max(0, len(passes.ahead) - 1)), whole.before_head
            ),
            during(passes.forward, "forward", whole.head),
        ),
        "backward": larger(
            during(passes.head_backward, "head_backward", whole.head_backward),
            *_arriving_in_head(passes, held, gradients, whole.head_backward, first_copy),
            _through_layers(held, passes, beside),
        ),
    }


def _arriving_in_head(
    passes: MicroBatch, held: Buffers, gradients: int, whole_bytes: int, copy: int
) -> Iterator[Moment]:
    """Yield the moment in the head's backward pass when a gradient arrives, if one does."""
    if passes.arriving_in_head is not None:
        more: Buffers = {"gathered": whole_bytes, "reduced_copy": copy}
        alive, place = passes.arriving_in_head, Arrival(IN_HEAD)
        yield _pass(held, alive, place, gradients=gradients, more=more)


def _ahead_in_layers(passes: MicroBatch, gathered: Sequence[int]) -> tuple[Amounts, Place, int]:
    """Return the largest moment of the layers' forward pass beside what is gathered in each: what
    is alive, where it lies, and the bytes of whole parameters."""
    if not passes.ahead:
        return passes.layers_forward, "layers_forward", max(gathered)
    before = accumulate(each.net_bytes for each in passes.ahead)
    tops = [
        total + layer.top_bytes + whole_bytes
        for total, layer, whole_bytes in zip(before, passes.ahead[1:], gathered, strict=False)
    ]
    number = tops.index(max(tops))
    alive = _added_up(passes.ahead[: number + 1])
    add_to(alive, passes.ahead[number + 1].top)
    return alive, Ahead(number), gathered[number]


def _added_up(stretches: Iterable[Stretch]) -> Amounts:
    """Return what stretches laid end to end have added at their end."""
    alive: Amounts = Counter()
    for each in stretches:
        add_to(alive, each.net)
    return alive


def _stage_3_step(states: SlicedStates, held: Buffers) -> Moment:
    """Return the update; persistent parameters are gathered again after the last sub-group."""
    return Moment(
        {
            **held,
            "persistent": 0,
            "gradients": states.gradients_bytes,
            "update": max(states.step_bytes, states.persistent_bytes),
        }
    )
