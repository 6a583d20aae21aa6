"""The plan of a decision: every key is filled in, so that a launch has nothing to decide."""

import re

from planner.decision.choose import Decision
from planner.models.config_json import config_from_spec
from planner.plan.schema import Fallback, HardwareSection, ModelSection, OutputSection, Plan
from planner.plan.training_section import TrainingSection
from planner.plan.vocabulary import SCHEMA_VERSION, Method
from planner.search.candidate import Candidate
from planner.search.prediction import prediction_of
from planner.workload.plan_sections import (
    attention_of,
    batch_section,
    parallel_section,
    precision_section,
)


def plan_of(decision: Decision) -> Plan:
    """Return the content of plan.yaml."""
    chosen = decision.chosen
    settings = chosen.workload.settings
    return Plan(
        schema_version=SCHEMA_VERSION,
        model=_model(decision),
        hardware=_hardware(decision),
        method=chosen.method,
        adapter=settings.adapter,
        quantization=settings.quantization,
        precision=precision_section(chosen.workload, chosen.layout),
        batch=batch_section(chosen.workload, chosen.layout),
        parallel=parallel_section(
            chosen.workload, chosen.layout, num_nodes=chosen.cluster.num_nodes
        ),
        activation_checkpointing=chosen.layout.activation_checkpointing,
        checkpoint_every=chosen.layout.checkpoint_every,
        activation_offloading=settings.activation_offloading,
        tiled_mlp=settings.tiled_mlp,
        attention=attention_of(chosen.workload),
        loss=chosen.workload.loss,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        data=settings.data,
        training=TrainingSection(epochs=settings.epochs),
        output=OutputSection(directory=_run_directory(decision.request.model.name, chosen.method)),
        prediction=prediction_of(chosen),
        fallbacks=tuple(_fallback(candidate) for candidate in decision.fallbacks),
    )


def _model(decision: Decision) -> ModelSection:
    model = decision.request.model
    return ModelSection(
        name=model.name,
        source=model.hub_id,
        revision=model.revision,
        model_type=model.spec.model_type,
        num_params=model.spec.num_params,
        trainable_params=decision.chosen.workload.trainable_params,
        config=config_from_spec(model.spec),
        rope_scaling=model.rope_scaling,
    )


def _hardware(decision: Decision) -> HardwareSection:
    cluster = decision.request.cluster
    return HardwareSection(
        device=cluster.device,
        gpu=cluster.accelerator.label,
        device_name=cluster.accelerator.device_name,
        capacity_bytes=cluster.accelerator.capacity_bytes,
        budget_bytes=decision.request.budget_bytes,
        network=cluster.network,
    )


def _fallback(candidate: Candidate) -> Fallback:
    return Fallback(
        micro_batch_size=candidate.layout.micro_batch_size,
        gradient_accumulation_steps=candidate.layout.gradient_accumulation_steps,
        activation_checkpointing=candidate.layout.activation_checkpointing,
        checkpoint_every=candidate.layout.checkpoint_every,
        strategy=candidate.layout.strategy,
        peak_allocated_bytes=candidate.memory.peak_allocated_bytes,
    )


def _run_directory(model: str, method: Method) -> str:
    """Return a folder that every shell, engine and terminal takes; a model's name may be any."""
    name = re.sub(r"[^\w.+-]+", "-", model)
    return f"runs/{name}-{method}"
