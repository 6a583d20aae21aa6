"""Memory of one training step on the most loaded rank: parts by phase, and their peak.

The peak is the largest sum of one phase, never a sum over phases. A phase is a moment:

    load             weights arrive; a matrix is whole before it is quantized or sharded
    forward          end of the forward pass and of the loss
    backward         start of the backward pass, all activations alive; or its end, all
                     gradients alive: the larger of the two
    optimizer_step   gradients and optimizer states, no activations
    save             trainable weights are gathered to be written

With gradient accumulation the gradients of earlier micro-batches are alive in forward too.
"""

from dataclasses import dataclass

from planner.autograd import GradientSink
from planner.buffers import (
    CUBLAS_WORKSPACE_BYTES,
    CUBLAS_WORKSPACES,
    ddp_buckets,
    largest_linear,
    zero3_gathered,
    zero_gradient_buckets,
    zero_sizes,
    zero_step_casts,
)
from planner.gpu import Device
from planner.micro_batch import Amounts, MicroBatch, micro_batch
from planner.model_states import ModelStates, frozen_bytes, model_states
from planner.numerics import Numerics, numerics
from planner.plan import PHASES, Part, Phase, ZeroSection
from planner.recipe import Batch, Workload
from planner.strategy import Layout
from planner.units import ceil_div

Parts = dict[Part, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that tensors take on one device, by phase and part."""

    phases: dict[Phase, Parts]

    def total_bytes(self, phase: Phase) -> int:
        return sum(self.phases[phase].values())

    @property
    def peak_phase(self) -> Phase:
        return max(PHASES, key=self.total_bytes)

    @property
    def peak_allocated_bytes(self) -> int:
        """What ``torch.cuda.max_memory_allocated`` would report."""
        return self.total_bytes(self.peak_phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """The terms that the phases are made of."""

    workload: Workload
    layout: Layout
    numerics: Numerics
    states: ModelStates
    zero: ZeroSection | None
    cublas_bytes: int
    passes: MicroBatch


def worst_batch(workload: Workload, layout: Layout, device: Device) -> Batch:
    """The worst micro-batch: full length, padded where samples of other lengths share it."""
    return Batch(
        micro_batch_size=layout.micro_batch_size,
        sequence_length=workload.recipe.sequence_length,
        masked=layout.micro_batch_size > 1,
        device=device,
    )


def zero_section(workload: Workload, layout: Layout) -> ZeroSection | None:
    model = workload.model
    return zero_sizes(model.hidden_size, model.largest_layer_params) if layout.zero_stage else None


def footprint(workload: Workload, layout: Layout, device: Device) -> Footprint:
    """Bytes by phase and part for one layout of one workload, as this launcher trains it."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=layout.zero_stage)
    return footprint_of(workload, layout, worst_batch(workload, layout, device), kinds)


def footprint_of(workload: Workload, layout: Layout, batch: Batch, kinds: Numerics) -> Footprint:
    """As :func:`footprint`, for a micro-batch and conventions of any trainer."""
    step = _Step(
        workload=workload,
        layout=layout,
        numerics=kinds,
        states=model_states(
            frozen_bytes=frozen_bytes(workload, kinds),
            trainable_params=workload.trainable_params,
            numerics=kinds,
            zero_stage=layout.zero_stage,
            data_parallel_size=layout.world_size,
        ),
        zero=zero_section(workload, layout),
        cublas_bytes=CUBLAS_WORKSPACES * CUBLAS_WORKSPACE_BYTES if batch.device == "cuda" else 0,
        passes=micro_batch(
            workload,
            batch,
            kinds,
            checkpointing=layout.activation_checkpointing,
            sink=gradient_sink(layout),
        ),
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


def gradient_sink(layout: Layout) -> GradientSink:
    """Where gradients go while the worst micro-batch of a step runs."""
    if layout.zero_stage >= 2:
        return "reduce"
    return "add" if layout.gradient_accumulation_steps > 1 else "keep"


def _weights(step: _Step) -> Parts:
    if step.workload.method == "full":
        return {"weights": step.states.trainable_bytes}
    return {"weights": step.states.frozen_bytes, "adapters": step.states.trainable_bytes}


def _resident(step: _Step) -> Parts:
    """What every phase of a later step holds."""
    return {
        **_weights(step),
        "optimizer_states": step.states.optimizer_states_bytes,
        "communication": _communication(step),
    }


def _communication(step: _Step) -> int:
    strategy = step.layout.strategy
    if strategy == "ddp":
        return ddp_buckets(step.workload.trainable_params, step.numerics)
    if step.zero is None:
        return 0
    buckets = zero_gradient_buckets(step.zero, step.layout.zero_stage, step.numerics)
    if strategy == "zero3":
        return buckets + zero3_gathered(step.workload, step.zero, step.numerics)
    return buckets


def _load(step: _Step) -> Parts:
    parts = _weights(step)
    if step.workload.method == "qlora":
        whole = largest_linear(step.workload).weight_params * step.numerics.compute
        parts["workspace"] = whole
    return parts


def _during(step: _Step, alive: Amounts) -> Parts:
    """One pass: what the step holds anyway, and what the micro-batch adds at its largest."""
    held = 0 if gradient_sink(step.layout) == "keep" else step.states.gradients_bytes
    return {
        **_resident(step),
        "gradients": held + alive["gradients"],
        "activations": alive["activations"],
        "loss": alive["loss"],
        "workspace": step.cublas_bytes + alive["workspace"],
    }


def _optimizer_step(step: _Step) -> Parts:
    """Gradients and optimizer states, no activations."""
    casts = 0
    if step.zero is not None:
        casts = zero_step_casts(
            shard_params=ceil_div(step.workload.trainable_params, step.layout.world_size),
            zero=step.zero,
            stage=step.layout.zero_stage,
            numerics=step.numerics,
        )
    return {
        **_resident(step),
        "gradients": step.states.gradients_bytes,
        "workspace": step.cublas_bytes + casts,
    }


def _save(step: _Step) -> Parts:
    return _resident(step)
