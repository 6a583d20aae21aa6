"""A decision as a plan: every key filled in, so that a launch has nothing left to decide."""

from planner.decision.choose import Decision
from planner.memory.footprint import load_without_files, unshared
from planner.memory.workspaces import cublas_bytes
from planner.models.config_json import config_from_spec
from planner.plan.prediction_section import PredictionSection
from planner.plan.schema import (
    SCHEMA_VERSION,
    Fallback,
    HardwareSection,
    ModelSection,
    OutputSection,
    Part,
    Phase,
    Plan,
)
from planner.plan.training_sections import TrainingSection
from planner.search.candidate import Candidate
from planner.workload.plan_sections import batch_section, parallel_section, precision_section


def plan_of(decision: Decision) -> Plan:
    """The plan file's content."""
    chosen = decision.chosen
    recipe = chosen.workload.recipe
    return Plan(
        schema_version=SCHEMA_VERSION,
        model=_model(decision),
        hardware=_hardware(decision),
        method=chosen.method,
        adapter=recipe.adapter,
        quantization=recipe.quantization,
        precision=precision_section(chosen.workload, chosen.layout),
        batch=batch_section(chosen.workload, chosen.layout),
        parallel=parallel_section(
            chosen.workload, chosen.layout, num_nodes=chosen.cluster.num_nodes
        ),
        activation_checkpointing=chosen.layout.activation_checkpointing,
        checkpoint_every=chosen.layout.checkpoint_every,
        attention=chosen.workload.attention,
        loss=chosen.workload.loss,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        data=recipe.data,
        training=TrainingSection(epochs=recipe.epochs),
        output=OutputSection(directory=f"runs/{decision.request.model.name}-{chosen.method}"),
        prediction=prediction_of(chosen),
        fallbacks=tuple(_fallback(candidate) for candidate in decision.fallbacks),
    )


def _model(decision: Decision) -> ModelSection:
    model = decision.request.model
    return ModelSection(
        name=model.name,
        source=model.hub_id,
        model_type=model.spec.model_type,
        num_params=model.spec.num_params,
        trainable_params=decision.chosen.workload.trainable_params,
        config=config_from_spec(model.spec),
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


def prediction_of(chosen: Candidate) -> PredictionSection:
    memory, told = chosen.memory, chosen.throughput
    return PredictionSection(
        peak_phase=chosen.footprint.peak_phase,
        peak_allocated_bytes=memory.peak_allocated_bytes,
        low_bytes=memory.low_bytes,
        high_bytes=memory.high_bytes,
        host_ram_bytes=chosen.host.node_bytes,
        disk_bytes=chosen.disk_bytes,
        checkpoint_bytes=chosen.checkpoint_bytes,
        step_time_s=_rounded(chosen.step_time_s),
        step_time_low_s=None if told is None else _rounded(told.low_s),
        step_time_high_s=None if told is None else _rounded(told.high_s),
        tokens_per_second=_rounded(chosen.tokens_per_second),
        mfu=None if told is None else _rounded(told.mfu),
        phases=_without_zeros(chosen.footprint.phases),
        unshared=_without_zeros(
            unshared(
                chosen.workload,
                chosen.layout,
                chosen.cluster.device,
                compute_capability=chosen.cluster.accelerator.compute_capability,
            )
        ),
        cublas_bytes=cublas_bytes(
            chosen.cluster.device, chosen.cluster.accelerator.compute_capability
        ),
        load_without_files=_nonzero(
            load_without_files(chosen.workload, chosen.layout, chosen.cluster.device)
        ),
    )


def _without_zeros(phases: dict[Phase, dict[Part, int]]) -> dict[str, dict[str, int]]:
    return {phase: _nonzero(parts) for phase, parts in phases.items()}


def _nonzero(parts: dict[Part, int]) -> dict[str, int]:
    return {part: size for part, size in parts.items() if size}


def _rounded(number: float | None) -> float | None:
    """Three significant digits are more than the model of speed can claim."""
    return None if number is None else float(f"{number:.3g}")


def _fallback(candidate: Candidate) -> Fallback:
    return Fallback(
        micro_batch_size=candidate.layout.micro_batch_size,
        gradient_accumulation_steps=candidate.layout.gradient_accumulation_steps,
        activation_checkpointing=candidate.layout.activation_checkpointing,
        checkpoint_every=candidate.layout.checkpoint_every,
        strategy=candidate.layout.strategy,
        peak_allocated_bytes=candidate.memory.peak_allocated_bytes,
    )
