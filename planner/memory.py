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
from typing import Literal, get_args

from planner.activations import (
    Batch,
    checkpointed_layer_ledger,
    layer_ledger,
    model_ledger,
    total_bytes,
)
from planner.buffers import (
    CUBLAS_WORKSPACE_BYTES,
    CUBLAS_WORKSPACES,
    ddp_buckets,
    dequantization_workspace,
    fused_loss_backward,
    fused_loss_forward,
    largest_linear,
    layer_backward,
    layer_forward,
    standard_loss_backward,
    standard_loss_forward,
    zero3_gathered,
    zero_gradient_buckets,
    zero_sizes,
    zero_step_casts,
)
from planner.gpu import Device
from planner.model_states import ModelStates, frozen_bytes, model_states
from planner.numerics import Numerics, numerics
from planner.plan import ZeroSection
from planner.recipe import Workload
from planner.strategy import Layout
from planner.units import ceil_div

Phase = Literal["load", "forward", "backward", "optimizer_step", "save"]
Part = Literal[
    "weights",
    "adapters",
    "gradients",
    "optimizer_states",
    "activations",
    "loss",
    "workspace",
    "communication",
]
PHASES: tuple[Phase, ...] = get_args(Phase)
PARTS: tuple[Part, ...] = get_args(Part)
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
    batch: Batch
    numerics: Numerics
    states: ModelStates
    zero: ZeroSection | None
    workspace_bytes: int


def micro_batch(workload: Workload, layout: Layout, device: Device) -> Batch:
    """The worst micro-batch: full length, padded where samples of other lengths share it."""
    return Batch(
        micro_batch_size=layout.micro_batch_size,
        sequence_length=workload.recipe.sequence_length,
        padded=layout.micro_batch_size > 1,
        device=device,
    )


def zero_section(workload: Workload, layout: Layout) -> ZeroSection | None:
    model = workload.model
    return zero_sizes(model.hidden_size, model.layer_params) if layout.zero_stage else None


def footprint(workload: Workload, layout: Layout, device: Device) -> Footprint:
    """Bytes by phase and part for one layout of one workload."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=layout.zero_stage)
    cublas = CUBLAS_WORKSPACES * CUBLAS_WORKSPACE_BYTES if device == "cuda" else 0
    step = _Step(
        workload=workload,
        layout=layout,
        batch=micro_batch(workload, layout, device),
        numerics=kinds,
        states=model_states(
            frozen_bytes=frozen_bytes(workload, kinds),
            trainable_params=workload.trainable_params,
            numerics=kinds,
            zero_stage=layout.zero_stage,
            data_parallel_size=layout.world_size,
        ),
        zero=zero_section(workload, layout),
        workspace_bytes=cublas + dequantization_workspace(workload, kinds),
    )
    return Footprint(
        phases={
            "load": _load(step),
            "forward": _forward(step),
            "backward": max(_backward_start(step), _backward_end(step), key=_sum),
            "optimizer_step": _optimizer_step(step),
            "save": _save(step),
        }
    )


def _sum(parts: Parts) -> int:
    return sum(parts.values())


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


def _kept(step: _Step) -> int:
    """Activations of all layers between forward and backward."""
    arguments = (step.workload, step.batch, step.numerics)
    num_layers = step.workload.model.num_layers
    outside = total_bytes(model_ledger(*arguments))
    if step.layout.activation_checkpointing:
        return num_layers * total_bytes(checkpointed_layer_ledger(*arguments)) + outside
    first = layer_ledger(*arguments, input_needs_gradient=step.workload.method == "full")
    return total_bytes(first) + (num_layers - 1) * total_bytes(layer_ledger(*arguments)) + outside


def _earlier_gradients(step: _Step) -> int:
    """Gradients that were there before this micro-batch."""
    accumulates = step.layout.gradient_accumulation_steps > 1
    always = step.layout.zero_stage == 3
    return step.states.gradients_bytes if accumulates or always else 0


def _forward(step: _Step) -> Parts:
    """The larger of: the last layer in flight, the loss."""
    arguments = (step.workload, step.batch, step.numerics)
    loss = fused_loss_forward if step.workload.recipe.loss == "fused" else standard_loss_forward
    in_layer = layer_forward(*arguments) if step.layout.activation_checkpointing else 0
    in_loss = loss(*arguments)
    parts: Parts = {
        **_resident(step),
        "gradients": _earlier_gradients(step),
        "activations": _kept(step) + _autocast_cache(step),
        "workspace": step.workspace_bytes,
    }
    if in_loss >= in_layer:
        return {**parts, "loss": in_loss}
    return {**parts, "activations": parts["activations"] + in_layer}


def _autocast_cache(step: _Step) -> int:
    """16-bit casts of weights that autocast holds until forward ends.

    Without checkpointing autograd keeps them anyway, and the ledgers count them.
    """
    if not (step.numerics.autocast and step.layout.activation_checkpointing):
        return 0
    model, width = step.workload.model, step.numerics.compute
    if step.workload.method == "full":
        return model.num_layers * model.layer_linear_params * width
    return step.workload.adapter_params * width


def _backward_start(step: _Step) -> Parts:
    """The larger of: the loss being differentiated, the last layer being differentiated."""
    arguments = (step.workload, step.batch, step.numerics)
    loss = fused_loss_backward if step.workload.recipe.loss == "fused" else standard_loss_backward
    recomputed = (
        total_bytes(layer_ledger(*arguments)) if step.layout.activation_checkpointing else 0
    )
    in_layer = recomputed + layer_backward(*arguments)
    in_loss = loss(*arguments)
    parts: Parts = {
        **_resident(step),
        "gradients": _earlier_gradients(step),
        "activations": _kept(step),
        "workspace": step.workspace_bytes,
    }
    if in_loss > in_layer:
        return {**parts, "loss": in_loss}
    return {**parts, "activations": parts["activations"] + in_layer}


def _backward_end(step: _Step) -> Parts:
    """The larger of: the first layer being differentiated, its gradients still to come; all
    gradients there, and the gradient of the embedding's output."""
    arguments = (step.workload, step.batch, step.numerics)
    outside = total_bytes(model_ledger(*arguments))
    in_layer = total_bytes(layer_ledger(*arguments)) + layer_backward(*arguments) + outside
    output_gradient = step.batch.tokens * step.workload.model.hidden_size * step.numerics.residual
    all_gradients = step.states.gradients_bytes
    coming = min(all_gradients, _last_gradients(step))
    gradients, activations = max(
        (all_gradients - coming, in_layer), (all_gradients, outside + 2 * output_gradient), key=sum
    )
    return {
        **_resident(step),
        "gradients": gradients,
        "activations": activations,
        "workspace": step.workspace_bytes,
    }


def _last_gradients(step: _Step) -> int:
    """Gradients of the first layer and of the embedding, which backward reaches last."""
    if _earlier_gradients(step):
        return 0
    model = step.workload.model
    if step.workload.method != "full":
        return step.workload.adapter_params // model.num_layers * step.numerics.gradient
    embedding = 0 if model.tied_embeddings else model.embedding_params
    return (model.layer_params + embedding) * step.numerics.gradient


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
        "workspace": step.workspace_bytes + casts,
    }


def _save(step: _Step) -> Parts:
    return _resident(step)
