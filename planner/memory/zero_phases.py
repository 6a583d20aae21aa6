"""Memory of a step under DeepSpeed, phase by phase: the buffers of planner/memory/zero_1_2.py,
zero_3.py and zero_3_gathering.py beside the micro-batch's own tensors."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from operator import add

from planner.hardware.cluster import Device
from planner.memory.micro_batch import Amounts, MicroBatch, add_to
from planner.memory.model_states import frozen_bytes
from planner.memory.zero_1_2 import FlatStates, block, flat_states
from planner.memory.zero_3 import SlicedStates, sliced_states
from planner.memory.zero_3_gathering import GatheredBytes, gathered_parameters
from planner.memory.zero_reductions import Reductions, reductions, scatter_copies
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import Part, Phase
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.workload import Workload

Parts = dict[Part, int]


def unshared_parts(alive: Amounts) -> Parts:
    """Return the tensors of a micro-batch that ranks do not share."""
    return {
        "activations": alive["activations"],
        "loss": alive["loss"],
        "workspace": alive["workspace"],
    }


def zero_phases(
    workload: Workload,
    layout: Layout,
    passes: MicroBatch,
    kinds: Numerics,
    zero: ZeroSection,
    device: Device,
    *,
    loading: int,
) -> dict[Phase, Parts]:
    """Return the bytes by phase and part, without cuBLAS workspaces.

    ``loading`` are the bytes that a load takes beside weights that come whole to the device.
    """
    if layout.zero_stage == 3:
        return _stage_3(workload, layout, passes, kinds, zero, device, loading)
    offloaded = layout.offload != "none"
    states = flat_states(
        workload, layout.world_size, zero, kinds, offloaded=offloaded, device=device
    )
    weights = _weights(workload, states.weights_bytes, frozen_bytes(workload, kinds))
    held: Parts = {
        **weights,
        "optimizer_states": states.optimizer_bytes,
        "communication": states.held_buffer_bytes,
    }
    return {
        "load": _flat_load(states, weights, block(loading)),
        "forward": _pass(
            held,
            passes.forward,
            gradients=_earlier(workload, layout, states),
            communication=_waiting_buckets(layout, states),
        ),
        "backward": _backward(workload, layout, states, held, passes),
        "optimizer_step": {
            **held,
            "gradients": 0 if offloaded else states.gradients_bytes,
            "workspace": states.step_bytes,
        },
        "save": held,
    }


def _flat_load(states: FlatStates, weights: Parts, loading: int) -> Parts:
    """Return the larger of what loading takes beside the weights, and of DeepSpeed's setup."""
    return _larger(
        {**weights, "workspace": loading},
        {
            **weights,
            "optimizer_states": states.copies_bytes,
            "gradients": states.setup_bytes,
            "communication": states.held_buffer_bytes,
        },
    )


def _weights(workload: Workload, trained_bytes: int, frozen: int) -> Parts:
    if workload.method == "full":
        return {"weights": trained_bytes}
    return {"weights": frozen, "adapters": trained_bytes}


def _pass(held: Parts, alive: Amounts, *, gradients: int, communication: int = 0) -> Parts:
    return {
        **held,
        **unshared_parts(alive),
        "gradients": gradients + alive["gradients"],
        "communication": held["communication"] + communication,
    }


def _earlier(workload: Workload, layout: Layout, states: FlatStates) -> int:
    """Return the bytes of gradients of earlier micro-batches, which ZeRO-1 adds up whole."""
    if layout.gradient_accumulation_steps == 1 or states.offloaded:
        return 0
    if layout.zero_stage == 1:
        return workload.trainable_params * states.kinds.gradient
    return states.gradients_bytes


def _backward(
    workload: Workload, layout: Layout, states: FlatStates, held: Parts, passes: MicroBatch
) -> Parts:
    """Return the largest of the head, before any gradient exists, and of each rank's way through
    the layers, with the buckets and what it has reduced."""
    earlier = _earlier(workload, layout, states)
    waiting = _waiting_buckets(layout, states)
    return _larger(
        _pass(held, passes.head_backward, gradients=earlier, communication=waiting),
        *(
            _through_layers(
                held,
                passes,
                _levels(earlier, rank),
                [states.buckets_bytes + copy for copy in rank.copies],
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
    held: Parts, passes: MicroBatch, gradients: Iterable[int], communication: Iterable[int]
) -> Parts:
    """Return the largest moment of the layers' backward pass beside each one's gradients and
    communication."""
    beside = list(zip(gradients, communication, strict=True))
    *before, _end = accumulate([layer.net_bytes for layer in passes.layers], initial=0)
    moments = [
        total + layer.top_bytes + kept + sent
        for total, layer, (kept, sent) in zip(before, passes.layers, beside, strict=True)
    ]
    place = moments.index(max(moments))
    alive = passes.before_layers.copy()
    for layer in passes.layers[:place]:
        add_to(alive, layer.net)
    add_to(alive, passes.layers[place].top)
    kept, sent = beside[place]
    return _pass(held, alive, gradients=kept, communication=sent)


def _larger(*found: Parts) -> Parts:
    return max(found, key=lambda parts: sum(parts.values()))


def _levels(start: int, rank: Reductions) -> Iterator[int]:
    """Yield what gradients hold in each stretch; what goes in one is there until its end."""
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
) -> dict[Phase, Parts]:
    ranks = layout.world_size
    states = sliced_states(workload, ranks, zero, kinds, offload=layout.offload, device=device)
    quantized = workload.settings.quantization is not None
    frozen = frozen_bytes(workload, kinds) if quantized else states.weights_bytes
    weights = _weights(workload, states.trained_bytes, frozen)
    held: Parts = {
        **weights,
        "optimizer_states": states.optimizer_bytes,
        "communication": states.bucket_bytes + states.persistent_bytes,
    }
    whole = gathered_parameters(
        workload, ranks, zero, checkpointing=layout.activation_checkpointing, width=kinds.compute
    )
    copies = scatter_copies(workload, ranks, zero, kinds)
    to_save = max(states.persistent_bytes, states.largest_gathered_bytes)
    return {
        "load": _stage_3_load(
            states,
            weights,
            0 if quantized else states.largest_gathered_bytes,
            block(loading) if quantized else 0,
        ),
        **_stage_3_passes(held, passes, states, whole, copies),
        "optimizer_step": _stage_3_step(states, held),
        "save": {
            **held,
            "gradients": states.gradients_bytes,
            "communication": states.bucket_bytes + to_save,
        },
    }


def _stage_3_load(states: SlicedStates, weights: Parts, whole_bytes: int, loading: int) -> Parts:
    """Return the largest of the load, of a whole parameter where they are sharded, and of two
    moments of the setup."""
    copies = states.copies_bytes
    return _larger(
        {**weights, "communication": whole_bytes, "workspace": loading},
        {**weights, "optimizer_states": copies + states.setup_bytes},
        {
            **weights,
            "optimizer_states": copies,
            "gradients": states.gradients_bytes,
            "communication": states.bucket_bytes + states.largest_trained_bytes,
        },
    )


def _stage_3_passes(
    held: Parts,
    passes: MicroBatch,
    states: SlicedStates,
    whole: GatheredBytes,
    copies: Sequence[int],
) -> dict[Phase, Parts]:
    """Return forward and backward beside what is gathered at the time."""

    def during(alive: Amounts, whole_bytes: int) -> Parts:
        return _pass(held, alive, gradients=states.gradients_bytes, communication=whole_bytes)

    in_backward = whole.in_backward(len(passes.layers) - 1)
    reduced = [max(copy, states.passing_bytes) for copy in copies]
    in_layers = _through_layers(
        held, passes, repeat(states.gradients_bytes, len(copies)), map(add, in_backward, reduced)
    )
    return {
        "forward": _larger(
            during(passes.layers_forward, whole.forward), during(passes.forward, whole.head)
        ),
        "backward": _larger(during(passes.head_backward, whole.head), in_layers),
    }


def _stage_3_step(states: SlicedStates, held: Parts) -> Parts:
    """Return the step: persistent parameters are gathered again when the last sub-group is done."""
    return {
        **held,
        "communication": states.bucket_bytes,
        "gradients": states.gradients_bytes,
        "workspace": max(states.step_bytes, states.persistent_bytes),
    }
