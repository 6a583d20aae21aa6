"""The prediction section of a plan, made from a candidate."""

from planner.memory.footprint import load_without_files, unshared
from planner.memory.workspaces import cublas_bytes
from planner.plan.prediction_section import PredictionSection
from planner.plan.vocabulary import Part, Phase
from planner.search.candidate import Candidate
from planner.speed.throughput import Throughput


def prediction_of(chosen: Candidate) -> PredictionSection:
    """Return what the plan predicts, times rounded to three significant digits."""
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
        backward_over_forward=None if told is None else _rounded(told.step.backward_over_forward),
        communication_share=_share(told, "exposed_communication_s"),
        launch_share=_share(told, "launch_s"),
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


def _share(told: Throughput | None, part: str) -> float:
    return 0.0 if told is None else float(f"{getattr(told.step, part) / told.step.total_s:.2g}")


def _without_zeros(phases: dict[Phase, dict[Part, int]]) -> dict[str, dict[str, int]]:
    return {phase: _nonzero(parts) for phase, parts in phases.items()}


def _nonzero(parts: dict[Part, int]) -> dict[str, int]:
    return {part: size for part, size in parts.items() if size}


def _rounded(number: float | None) -> float | None:
    """Return three significant digits, which are more than the model of speed can claim."""
    return None if number is None else float(f"{number:.3g}")
