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

from typing import NamedTuple

from planner.hardware.cluster import Device
from planner.memory.ddp_buckets import ddp_bytes
from planner.memory.expert_loading import loading_bytes, quantized_from
from planner.memory.micro_batch import Amounts, MicroBatch, micro_batch
from planner.memory.model_states import ModelStates, frozen_bytes, model_states
from planner.memory.optimizer_step import step_bytes
from planner.memory.workspaces import cublas_bytes
from planner.memory.zero_phases import unshared_parts, zero_phases
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import PHASES, Part, Phase
from planner.tape.tape import GradientSink
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Batch, Workload
from planner.workload.zero_buckets import zero_section

Parts = dict[Part, int]


class Footprint(NamedTuple):
    """Bytes of tensors on one device, by phase and part."""

    phases: dict[Phase, Parts]

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


class _Step(NamedTuple):
    """The terms that the phases are made of."""

    workload: Workload
    layout: Layout
    numerics: Numerics
    device: Device
    states: ModelStates
    cublas_bytes: int
    passes: MicroBatch
    loading_bytes: int
    """Bytes beside the weights while they load."""


def worst_batch(workload: Workload, layout: Layout, device: Device) -> Batch:
    """Return the largest micro-batch: full length, padded where samples of other lengths
    share it."""
    return Batch(
        micro_batch_size=layout.micro_batch_size,
        sequence_length=workload.settings.sequence_length,
        masked=layout.micro_batch_size > 1 or workload.packing,
        device=device,
    )


def footprint(
    workload: Workload, layout: Layout, device: Device, *, compute_capability: str | None = None
) -> Footprint:
    """Return the bytes by phase and part of a workload in a layout, as this launcher trains it."""
    kinds = numerics_of(workload, layout)
    batch = worst_batch(workload, layout, device)
    return footprint_of(workload, layout, batch, kinds, compute_capability=compute_capability)


def footprint_of(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    kinds: Numerics,
    *,
    compute_capability: str | None = None,
    from_files: bool = True,
) -> Footprint:
    """Return the footprint of a micro-batch with the numerics of any trainer.

    ``from_files`` is false for weights that are made on the device, which stack no experts.
    """
    loading = loading_bytes(workload, kinds) if from_files else quantized_from(workload, kinds)
    cublas = cublas_bytes(batch.device, compute_capability)
    zero = zero_section(workload, layout)
    if zero is not None:
        passes = _reduced(workload, layout, batch, kinds, zero.reduce_bucket_size)
        phases = zero_phases(workload, layout, passes, kinds, zero, batch.device, loading=loading)
        return Footprint(phases=_with_cublas(phases, cublas))
    step = _Step(
        workload=workload,
        layout=layout,
        numerics=kinds,
        device=batch.device,
        states=model_states(
            frozen_bytes=frozen_bytes(workload, kinds),
            tensors=counted_tensors(workload),
            optimizer=optimizers()[workload.settings.optimizer.name],
            numerics=kinds,
            zero_stage=0,
            data_parallel_size=layout.world_size,
            device=batch.device,
        ),
        cublas_bytes=cublas,
        passes=micro_batch(
            workload,
            batch,
            kinds,
            checkpointing=layout.checkpointing,
            sink=gradient_sink(layout),
        ),
        loading_bytes=loading,
    )
    return Footprint(
        phases={
            "load": _load(step),
            "forward": _during(step, step.passes.forward),
            "backward": _during(step, step.passes.backward),
            "optimizer_step": _optimizer_step(step),
            "save": _save(step),
        }
    )


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
    """Return what a rank makes by itself under DeepSpeed, where weights are random and no gradient
    waits for a bucket; nothing without DeepSpeed."""
    if not layout.zero_stage:
        return {}
    kinds = numerics_of(workload, layout)
    batch = worst_batch(workload, layout, device)
    passes = _reduced(workload, layout, batch, kinds, workload.trainable_params)
    cublas = cublas_bytes(device, compute_capability)
    return _with_cublas(
        {
            "load": {"workspace": quantized_from(workload, kinds)},
            "forward": unshared_parts(passes.forward),
            "backward": unshared_parts(passes.backward),
        },
        cublas,
    )


def load_without_files(workload: Workload, layout: Layout, device: Device) -> Parts:
    """Return the load phase of a rehearsal, whose weights are random; empty where it is the
    same."""
    kinds = numerics_of(workload, layout)
    if loading_bytes(workload, kinds) == quantized_from(workload, kinds):
        return {}
    batch = worst_batch(workload, layout, device)
    return footprint_of(workload, layout, batch, kinds, from_files=False).phases["load"]


def _with_cublas(phases: dict[Phase, Parts], cublas: int) -> dict[Phase, Parts]:
    """Return the phases with cuBLAS workspaces, which stay from a step's first product to the end
    of the run."""
    return {
        phase: parts
        if phase == "load"
        else {**parts, "workspace": parts.get("workspace", 0) + cublas}
        for phase, parts in phases.items()
    }


def gradient_sink(layout: Layout) -> GradientSink:
    """Return where gradients go while the largest micro-batch of a step runs."""
    if layout.zero_stage >= 2:
        return "reduce"
    return "add" if layout.gradient_accumulation_steps > 1 else "keep"


def _weights(step: _Step) -> Parts:
    if step.workload.method == "full":
        return {"weights": step.states.trainable_bytes}
    return {"weights": step.states.frozen_bytes, "adapters": step.states.trainable_bytes}


def _resident(step: _Step) -> Parts:
    """Return what every phase of a later step holds."""
    return {
        **_weights(step),
        "optimizer_states": step.states.optimizer_states_bytes,
        "communication": _communication(step),
    }


def _communication(step: _Step) -> int:
    if step.layout.strategy == "ddp":
        return ddp_bytes(step.workload, step.numerics.gradient)
    return 0


def _load(step: _Step) -> Parts:
    return {**_weights(step), "workspace": step.loading_bytes}


def _during(step: _Step, alive: Amounts) -> Parts:
    """Return one pass: what the step holds anyway, and what the micro-batch adds at its largest."""
    held = 0 if gradient_sink(step.layout) == "keep" else step.states.gradients_bytes
    return {
        **_resident(step),
        "gradients": held + alive["gradients"],
        "activations": alive["activations"],
        "loss": alive["loss"],
        "workspace": step.cublas_bytes + alive["workspace"],
    }


def _optimizer_step(step: _Step) -> Parts:
    """Return gradients, optimizer states and what the step allocates; activations are gone."""
    made = step_bytes(step.workload, width=step.numerics.home, device=step.device)
    return {
        **_resident(step),
        "gradients": step.states.gradients_bytes,
        "workspace": step.cublas_bytes + made,
    }


def _save(step: _Step) -> Parts:
    """Return the save phase: tensors are copied to the host, not on the device; a full model that
    trains in fp32 is cast first, a tensor at a time (launcher/training/saving.py)."""
    kinds, cast = step.numerics, 0
    if step.workload.method == "full" and kinds.compute < kinds.trainable:
        cast = max(tensor.elements for tensor in counted_tensors(step.workload)) * kinds.compute
    return {**_resident(step), "workspace": step.cublas_bytes + cast}
