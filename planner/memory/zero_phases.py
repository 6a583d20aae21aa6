"""Memory of a step under DeepSpeed, phase by phase: planner/memory/zero_1_2.py, zero_3.py and
zero_3_gathering.py beside the micro-batch's own tensors."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, repeat

from planner.base.units import block
from planner.hardware.cluster import Device
from planner.memory.buffers import Buffers, Moment, Place, larger, pass_buffers, weights_buffers
from planner.memory.micro_batch import Amounts, MicroBatch, add_to
from planner.memory.model_states import frozen_bytes
from planner.memory.zero_1_2 import FlatStates, flat_states
from planner.memory.zero_3 import SlicedStates, sliced_states
from planner.memory.zero_3_gathering import GatheredBytes, gathered_parameters
from planner.memory.zero_reductions import Reductions, reductions, scatter_copies
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import Phase
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.workload import Workload


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
    the layers, with the buckets and what it has reduced."""
    earlier = earlier_gradients(workload, layout, states)
    waiting: Buffers = {"reduce_buckets": _waiting_buckets(layout, states)}
    buckets: Buffers = {"reduce_buckets": states.buckets_bytes}
    return larger(
        _pass(held, passes.head_backward, "head_backward", gradients=earlier, more=waiting),
        *(
            _through_layers(
                held,
                passes,
                gradient_levels(earlier, rank),
                [{**buckets, "reduced_copy": copy} for copy in rank.copies],
            )
            for rank in reductions(
                workload,
                layout.world_size,
                states.zero,
                states.kinds,
                stage=layout.zero_stage,
                accumulates=layout.gradient_accumulation_steps > 1,
                offloaded=states.offloaded,
            )
        ),
    )


def _through_layers(
    held: Buffers, passes: MicroBatch, gradients: Iterable[int], more: Iterable[Buffers]
) -> Moment:
    """Return the largest moment of the layers' backward pass, beside what is held in each."""
    beside = list(zip(gradients, more, strict=True))
    *before, _end = accumulate([layer.net_bytes for layer in passes.layers], initial=0)
    moments = [
        total + layer.top_bytes + kept + sum(sent.values())
        for total, layer, (kept, sent) in zip(before, passes.layers, beside, strict=True)
    ]
    place = moments.index(max(moments))
    alive = passes.before_layers.copy()
    for layer in passes.layers[:place]:
        add_to(alive, layer.net)
    add_to(alive, passes.layers[place].top)
    kept, sent = beside[place]
    return _pass(held, alive, place, gradients=kept, more=sent)


def gradient_levels(start: int, rank: Reductions) -> Iterator[int]:
    """Yield the bytes of gradients in each stretch; what goes in one is there until its end."""
    for gained, freed in zip(rank.gained, rank.freed, strict=True):
        yield start + gained
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
    whole = gathered_parameters(
        workload, ranks, zero, checkpointing=layout.activation_checkpointing, width=kinds.compute
    )
    copies = scatter_copies(workload, ranks, zero, kinds)
    return {
        "load": _stage_3_load(
            states,
            weights,
            0 if quantized else states.largest_gathered_bytes,
            block(loading) if quantized else 0,
        ),
        **_stage_3_passes(held, passes, states, whole, copies),
        "optimizer_step": _stage_3_step(states, held),
        "save": Moment(
            {
                **held,
                "gradients": states.gradients_bytes,
                "persistent": 0,
                "saved_parameter": max(states.persistent_bytes, states.largest_gathered_bytes),
            }
        ),
    }


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
                "hooked_parameter": states.largest_trained_bytes,
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

    more: list[Buffers] = [
        {"gathered": whole_bytes, "reduced_copy": max(copy, states.passing_bytes)}
        for whole_bytes, copy in zip(whole.in_backward(len(passes.layers) - 1), copies, strict=True)
    ]
    in_layers = _through_layers(held, passes, repeat(states.gradients_bytes, len(copies)), more)
    return {
        "forward": larger(
            during(passes.layers_forward, "layers_forward", whole.forward),
            during(passes.forward, "forward", whole.head),
        ),
        "backward": larger(during(passes.head_backward, "head_backward", whole.head), in_layers),
    }


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
