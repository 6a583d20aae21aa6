"""Memory of one training step on the most loaded rank: parts by phase, and their peak.

The peak is the largest sum of one phase, never a sum over phases. A phase is a moment:

    load             weights arrive; a matrix is whole before it is quantized or sharded, and
                     experts are stacked; or DeepSpeed is set up, if that takes more
    forward          end of the forward pass and of the loss
    backward         start of the backward pass, all activations alive; or its end, all
                     gradients alive: the larger of the two
    optimizer_step   gradients and optimizer states, no activations
    save             trainable weights are gathered to be written

With gradient accumulation the gradients of earlier micro-batches are alive in forward too.
"""

from msgspec import Struct, structs

from planner.hardware.cluster import Device
from planner.memory.buffers import Buffers, Moment, Parts, Place, pass_buffers, weights_buffers
from planner.memory.ddp_buckets import ddp_bytes
from planner.memory.expert_loading import loading_bytes
from planner.memory.fsdp_phases import fsdp_moments
from planner.memory.micro_batch import Amounts, MicroBatch, micro_batch
from planner.memory.model_states import ModelStates, frozen_bytes, model_states
from planner.memory.optimizer_step import step_bytes
from planner.memory.quantized_loading import quantized_from
from planner.memory.workspaces import cublas_bytes
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import ZeroSection
from planner.plan.vocabulary import PHASES, Phase
from planner.tape.tape import GradientSink
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Batch, Workload
from planner.workload.zero_sizes import zero_section

Moments = dict[Phase, Moment]


class Footprint(Struct, frozen=True):
    """Bytes of tensors on one device, by phase and part."""

    phases: dict[Phase, Parts]
    pool_bytes: int = 0
    """Bytes of the allocator's pool when it grows for the head: all tensors, and what may lie free
    between them."""

    def total_bytes(self, phase: Phase) -> int:
        """Return the bytes of all parts in this phase."""
        return sum(self.phases[phase].values())

    @property
    def peak_phase(self) -> Phase:
        """Phase with the most bytes."""
        return max(PHASES, key=self.total_bytes)

    @property
    def peak_allocated_bytes(self) -> int:
        """Bytes that ``torch.cuda.max_memory_allocated`` would report."""
        return self.total_bytes(self.peak_phase)


class _Step(Struct, frozen=True):
    """The terms that the phases are made of."""

    workload: Workload
    layout: Layout
    numerics: Numerics
    device: Device
    states: ModelStates
    passes: MicroBatch
    loading_bytes: int
    """Bytes beside the weights while they load."""


def worst_batch(
    workload: Workload, layout: Layout, device: Device, *, compute_capability: str | None = None
) -> Batch:
    """Return the largest micro-batch: full length, padded where samples of other lengths
    share it. Ranks that share a sequence need no mask: what pads it comes last, where a causal
    order hides it."""
    shared = layout.sequence_ranks
    return Batch(
        micro_batch_size=layout.micro_batch_size,
        sequence_length=workload.settings.sequence_length // shared,
        masked=(layout.micro_batch_size > 1 and shared == 1) or workload.packing,
        device=device,
        compute_capability=compute_capability,
        sequence_ranks=shared,
    )


def footprint(
    workload: Workload, layout: Layout, device: Device, *, compute_capability: str | None = None
) -> Footprint:
    """Return bytes by phase and part for one layout of one workload, as this launcher trains it."""
    return _footprint(moments(workload, layout, device, compute_capability=compute_capability))


def moments(
    workload: Workload, layout: Layout, device: Device, *, compute_capability: str | None = None
) -> Moments:
    """Return the same, buffer by buffer."""
    kinds = numerics_of(workload, layout)
    batch = worst_batch(workload, layout, device, compute_capability=compute_capability)
    return moments_of(workload, layout, batch, kinds)


def footprint_of(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    kinds: Numerics,
    *,
    from_files: bool = True,
) -> Footprint:
    """Return bytes by phase and part for a micro-batch and conventions of any trainer.

    ``from_files`` is false for weights that are made on the device, which stack no experts.
    """
    return _footprint(moments_of(workload, layout, batch, kinds, from_files=from_files))


def _footprint(moments: Moments) -> Footprint:
    return Footprint(
        phases={phase: moment.parts for phase, moment in moments.items()},
        pool_bytes=moments["backward"].pool_bytes,
    )


def moments_of(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    kinds: Numerics,
    *,
    from_files: bool = True,
) -> Moments:
    """Return the largest moment of each phase, buffer by buffer."""
    workload = workload.of_a_rank(layout)
    loading = max(loading_bytes(workload, kinds), parting(workload, kinds, batch.device))
    if not from_files:
        loading = quantized_from(workload, kinds, from_files=False)
    cublas = cublas_bytes(batch.device, batch.compute_capability)
    zero = zero_section(workload, layout)
    if zero is not None:
        from planner.memory.zero_phases import zero_moments  # a single device needs none of it

        passes = _reduced(workload, layout, batch, kinds, waits_above(workload, layout, zero))
        moments = zero_moments(workload, layout, passes, kinds, zero, batch.device, loading=loading)
        return _with_pool(_with_cublas(moments, cublas), passes)
    passes = micro_batch(
        workload, batch, kinds, checkpointing=layout.checkpointing, sink=gradient_sink(layout)
    )
    if layout.strategy == "fsdp":
        moments = fsdp_moments(workload, layout, passes, kinds, batch.device)
        return _with_pool(_with_cublas(moments, cublas), passes)
    states = model_states(
        frozen_bytes=frozen_bytes(workload, kinds),
        tensors=counted_tensors(workload),
        optimizer=optimizers()[workload.settings.optimizer.name],
        numerics=kinds,
        zero_stage=0,
        data_parallel_size=layout.world_size,
        device=batch.device,
    )
    whole = table_bytes(workload, kinds.gradient) * (workload.tensor_ranks - 1)
    step = _Step(
        workload=workload,
        layout=layout,
        numerics=kinds,
        device=batch.device,
        states=structs.replace(states, gradients_bytes=states.gradients_bytes + whole),
        passes=passes,
        loading_bytes=loading,
    )
    phases: Moments = {
        "load": Moment({**_weights(step), "loading": step.loading_bytes}),
        "forward": _during(step, step.passes.forward, "forward"),
        "backward": _during(step, step.passes.backward, "backward"),
        "optimizer_step": _optimizer_step(step),
        "save": _save(step),
    }
    return _with_pool(_with_cublas(phases, cublas), passes)


def parting(workload: Workload, kinds: Numerics, device: Device) -> int:
    """Return the bytes to part a base whose adapters begin as a part of it: those of the host, so
    none of a GPU."""
    adapter = workload.settings.adapter
    if device == "cuda" or adapter is None or not adapter.changes_base:
        return 0
    from planner.workload.parted_base import parting_bytes  # few plans need it

    return parting_bytes(workload, kinds, on_device=device, is_first=True)


def waits_above(workload: Workload, layout: Layout, zero: ZeroSection) -> int:
    """Return above how many elements a gradient waits where it is until it is reduced: above a
    bucket's. One that is added to an earlier one does not, which is what waits under ZeRO-1."""
    is_added = layout.zero_stage == 1 and layout.gradient_accumulation_steps > 1
    return workload.trainable_params if is_added else zero.reduce_bucket_size


def _reduced(
    workload: Workload, layout: Layout, batch: Batch, kinds: Numerics, bucket_size: int
) -> MicroBatch:
    """Return a micro-batch whose gradients go into buckets of so many elements."""
    return micro_batch(
        workload,
        batch,
        kinds,
        checkpointing=layout.checkpointing,
        sink="reduce",
        reduce_bucket_size=bucket_size,
    )


def unshared(
    workload: Workload, layout: Layout, device: Device, *, compute_capability: str | None = None
) -> dict[Phase, Parts]:
    """Return the bytes that one rank allocates for itself where states are sharded, by phase and
    part, with random weights and no gradient waiting for a bucket; empty where none is, and where
    all of a rank's bytes are its own, since it computes a part of each layer."""
    if not layout.is_sharded or layout.strategy == "tensor":
        return {}
    kinds = numerics_of(workload, layout)
    batch = worst_batch(workload, layout, device, compute_capability=compute_capability)
    passes = _reduced(workload, layout, batch, kinds, workload.trainable_params)
    cublas = cublas_bytes(device, compute_capability)
    moments: Moments = {
        "load": Moment({"loading": quantized_from(workload, kinds, from_files=False)}),
        "forward": Moment(pass_buffers(passes.forward)),
        "backward": Moment(pass_buffers(passes.backward)),
    }
    return {phase: moment.parts for phase, moment in _with_cublas(moments, cublas).items()}


def load_without_files(workload: Workload, layout: Layout, device: Device) -> Parts:
    """Return the load phase of a rehearsal, whose weights are random; empty where it is the
    same."""
    kinds = numerics_of(workload, layout)
    loading = max(loading_bytes(workload, kinds), parting(workload, kinds, device))
    if loading == quantized_from(workload, kinds, from_files=False):
        return {}
    batch = worst_batch(workload, layout, device)
    return footprint_of(workload, layout, batch, kinds, from_files=False).phases["load"]


def _with_pool(moments: Moments, passes: MicroBatch) -> Moments:
    backward = moments["backward"]
    pool = backward.num_bytes + passes.pool_above_backward_bytes
    return {**moments, "backward": structs.replace(backward, pool_bytes=pool)}


def _with_cublas(moments: Moments, cublas: int) -> Moments:
    """Add cuBLAS's workspaces, which stay from the first product of a step to the run's end."""
    return {
        phase: moment
        if phase == "load"
        else structs.replace(moment, buffers={**moment.buffers, "cublas": cublas})
        for phase, moment in moments.items()
    }


def gradient_sink(layout: Layout) -> GradientSink:
    """Return where gradients go while the largest micro-batch of a step runs."""
    if layout.zero_stage >= 2:
        return "reduce"
    if layout.strategy == "fsdp":
        return "keep"
    return "add" if layout.gradient_accumulation_steps > 1 else "keep"


def _weights(step: _Step) -> Buffers:
    states = step.states
    return weights_buffers(
        step.workload.method, frozen=states.frozen_bytes, trained=states.trainable_bytes
    )


def _resident(step: _Step) -> Buffers:
    """Return what every phase of a later step holds."""
    return {
        **_weights(step),
        "optimizer_states": step.states.optimizer_states_bytes,
        "ddp_buckets": _ddp_buckets(step),
    }


def _ddp_buckets(step: _Step) -> int:
    if step.layout.strategy == "ddp":
        return ddp_bytes(step.workload, step.numerics.gradient)
    return 0


def _during(step: _Step, alive: Amounts, place: Place) -> Moment:
    """Return one pass: what the step holds anyway, and what the micro-batch adds at its largest."""
    held = 0 if gradient_sink(step.layout) == "keep" else step.states.gradients_bytes
    return Moment(
        {
            **_resident(step),
            "gradients": held,
            "new_gradients": alive["gradients"],
            **pass_buffers(alive),
        },
        place,
    )


def _optimizer_step(step: _Step) -> Moment:
    """Return gradients, optimizer states and what the step makes; no activations."""
    made = step_bytes(step.workload, width=step.numerics.home, device=step.device)
    if step.workload.tensor_ranks > 1:
        made = max(made, table_bytes(step.workload, step.numerics.gradient))
    return Moment(
        {**_resident(step), "gradients": step.states.gradients_bytes, "update": made},
    )


def table_bytes(workload: Workload, width: int) -> int:
    """Return the bytes of a rank's part of the table of embeddings, where it is cut and trains: the
    gradient is the whole table's, and the optimizer copies the rank's part of it. The gradient of a
    table that the head is tied to is a part already.

    read: torch/distributed/tensor/_ops at 2.13, _embedding_ops.py and _pointwise_ops.py.
    """
    if workload.tensor_ranks == 1 or workload.method != "full" or workload.model.tied_embeddings:
        return 0
    return workload.model.embedding_params * width


def _save(step: _Step) -> Moment:
    """Return the states alone: tensors are copied to the host, not here.

    A full model that trains in fp32 is cast first, a tensor at a time
    (launcher/training/saving.py).
    """
    kinds, cast = step.numerics, 0
    if step.workload.method == "full" and kinds.compute < kinds.trainable:
        cast = max(tensor.elements for tensor in counted_tensors(step.workload)) * kinds.compute
    if step.workload.tensor_ranks > 1:  # gathered one by one, and put in order where cut by inputs
        largest = max(tensor.elements for tensor in counted_tensors(step.workload))
        cast = 2 * step.workload.tensor_ranks * largest * kinds.trainable
    return Moment({**_resident(step), "cast": cast})
