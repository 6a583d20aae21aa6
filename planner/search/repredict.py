"""A plan's prediction made anew from the plan alone, as for one that somebody has edited.

The plan holds the model's shape, so that no preset and no checkpoint is needed.
"""

from pathlib import Path

from msgspec import structs

from planner.base.errors import InvalidRequestError, UserError
from planner.base.phrases import Phrase
from planner.base.preset_files import Source
from planner.hardware.cards import (
    card_of,
    context_bytes,
    find_card,
    is_slice,
    label_gib,
    sized_cluster,
)
from planner.hardware.cluster import Cluster
from planner.hardware.detect import parse_gpus
from planner.models.config_json import spec_from_config
from planner.plan.schema import HardwareSection, Plan
from planner.search.candidate import Candidate
from planner.search.prediction import prediction_of
from planner.workload.layout import Layout
from planner.workload.plan_sections import precision_section
from planner.workload.settings import TrainingSettings
from planner.workload.workload import Workload

_HERE = Path("model.config")
_SOURCE = Source(title="plan.yaml", url="")


def predicted(plan: Plan, cluster: Cluster | None = None) -> Plan:
    """Return the plan with its counts and its prediction as they follow from its other keys.

    ``cluster`` is the machine to predict for; None means the plan's own. Raises InvalidRequestError
    if ``precision`` contradicts the method and the strategy, or if the plan has no model shape.
    """
    workload, layout = workload_of(plan), layout_of(plan)
    where = cluster or cluster_of(plan)
    candidate = Candidate(workload=workload, layout=layout, cluster=where)
    precision = precision_section(workload, layout)
    if precision != plan.precision:
        raise InvalidRequestError(
            Phrase(
                "{method} under {strategy} has frozen parameters in {frozen}, trainable ones "
                "in {trainable} and master copies in {master}: set precision.frozen, "
                "precision.trainable and precision.master so, or plan again",
                method=plan.method,
                strategy=layout.strategy,
                frozen=precision.frozen,
                trainable=precision.trainable,
                master=precision.master or "no precision (null)",
            )
        )
    trainable = {"trainable_params": workload.trainable_params}
    return structs.replace(
        plan, model=structs.replace(plan.model, **trainable), prediction=prediction_of(candidate)
    )


def on_machine(plan: Plan, cluster: Cluster) -> Plan:
    """Return the plan with another machine as its hardware, and with what it needs there."""
    card = cluster.accelerator
    hardware = structs.replace(
        plan.hardware,
        gpu=card.label,
        device_name=card.device_name,
        capacity_bytes=card.capacity_bytes,
        budget_bytes=card.free_bytes,
    )
    sized = structs.replace(
        cluster,
        gpus_per_node=plan.parallel.gpus_per_node,
        num_nodes=plan.parallel.num_nodes,
        network=plan.hardware.network,
    )
    return predicted(structs.replace(plan, hardware=hardware), sized)


def workload_of(plan: Plan) -> Workload:
    """Return the plan's workload. Raises InvalidRequestError if the plan has no model shape."""
    if plan.model.config is None:
        raise InvalidRequestError(Phrase("the plan does not hold its model's shape (model.config)"))
    settings = TrainingSettings(
        method=plan.method,
        adapter=plan.adapter,
        quantization=plan.quantization,
        global_batch_size=plan.batch.global_batch_size,
        sequence_length=plan.batch.sequence_length,
        packing=plan.batch.packing,
        optimizer=plan.optimizer,
        schedule=plan.schedule,
        epochs=plan.training.epochs or 1.0,
        data=plan.data,
        attention=plan.attention,
        loss=plan.loss,
        activation_offloading=plan.activation_offloading,
        tiled_mlp=plan.tiled_mlp,
    )
    spec = spec_from_config(plan.model.config, _HERE)
    precision = plan.precision
    return Workload(model=spec, settings=settings, compute=precision.compute, pure=precision.pure)


def layout_of(plan: Plan) -> Layout:
    """Return the plan's layout."""
    return Layout(
        strategy=plan.parallel.strategy,
        world_size=plan.parallel.world_size,
        micro_batch_size=plan.batch.micro_batch_size,
        gradient_accumulation_steps=plan.batch.gradient_accumulation_steps,
        activation_checkpointing=plan.activation_checkpointing,
        checkpoint_every=plan.checkpoint_every,
        offload=plan.parallel.offload,
        copies=plan.parallel.copies,
        sequence_ranks=plan.parallel.sequence_parallel_size,
    )


def cluster_of(plan: Plan) -> Cluster:
    """Return the plan's machine, with what the preset of its card's name knows."""
    parallel, hardware = plan.parallel, plan.hardware
    named = hardware.gpu if hardware.device == "cpu" else f"{parallel.gpus_per_node}x{hardware.gpu}"
    try:
        found = parse_gpus(named)
    except UserError:
        found = _read_by_a_driver(hardware, parallel.gpus_per_node)
    card = structs.replace(found.accelerator, capacity_bytes=hardware.capacity_bytes)
    return structs.replace(
        found,
        accelerator=card,
        gpus_per_node=parallel.gpus_per_node,
        num_nodes=parallel.num_nodes,
        network=hardware.network,
    )


def _read_by_a_driver(hardware: HardwareSection, count: int) -> Cluster:
    """Return a cluster of cards without a preset, or of slices, whose speed is unknown."""
    size_gib = label_gib(hardware.capacity_bytes)
    sized = sized_cluster(size_gib, count)
    whole = find_card(card_of(hardware.device_name), None)
    card = structs.replace(
        sized.accelerator,
        label=hardware.gpu,
        device_name=hardware.device_name,
        context_bytes=context_bytes(whole, size_gib),
        told_capability=None if whole is None else whole.compute_capability,
        is_slice=is_slice(hardware.device_name),
        speed=None,
    )
    return structs.replace(sized, accelerator=card)
