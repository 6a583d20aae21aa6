"""``report.json``: the prediction of a run beside its measurements."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from msgspec import to_builtins

from launcher.data.inputs import Inputs
from launcher.display.model_card import CARD, model_card
from launcher.display.utilisation import PredictedParts, RankParts, losses_of, rank_times
from launcher.run.attempts import reported_attempts
from launcher.run.run_directory import RunDirectory
from launcher.run.versions import package_versions
from launcher.storage.json_files import write_json
from launcher.training.measurements import RankMemory, typical_step_time_s
from launcher.training.setup_check import Setup
from planner.base.output_file import write_whole
from planner.plan.schema import Plan

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Speed of a training, as rank 0 has measured it."""

    num_steps: int
    tokens_per_second: Sequence[float]
    """Tokens per second of all ranks, by logged step."""
    step_times_s: Sequence[float]
    """Seconds by step."""
    mean_row_tokens: int
    """Mean over rank 0's batches of the tokens of a row, padding included."""
    parts: Sequence[RankParts]
    """Parts of a step of every rank, of the steps that were logged last."""
    saving_share: float
    """Share of the run's time in which checkpoints were written."""
    run_time_s: float
    """Seconds from the first step to the last, with saving and evaluation."""


def write_report(
    run: RunDirectory,
    plan: Plan,
    *,
    inputs: Inputs,
    setup: Setup,
    training: Training,
    ranks: Sequence[RankMemory],
) -> None:
    """Write the model card of a finished run, and last its report; a probe saves no model."""
    losses = logged_losses(run)
    report = {
        "report_version": REPORT_VERSION,
        "status": "finished",
        "predicted": to_builtins(plan.prediction),
        "measured": measured(training, ranks),
        "utilisation": utilisation(plan, training),
        "attempts": reported_attempts(run),
        "training": {
            "num_steps": training.num_steps,
            "first_loss": losses[0],
            "last_loss": losses[-1],
        },
        "setup": asdict(setup),
        "inputs": asdict(inputs),
        "result": run.result(plan).name,
    }
    if not run.probe.exists():
        card = model_card(plan, report, package_versions(), merged=False)
        write_whole(run.result(plan) / CARD, str(card))
    write_json(run.report, report)


def logged_losses(run: RunDirectory) -> list[float]:
    """Return the loss of every logged step, with those before an interruption."""
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def measured(training: Training, ranks: Sequence[RankMemory]) -> dict[str, Any]:
    """Return the measurements as the report has them.

    Memory is that of the rank with the most; speed leaves out the first step, which sets up.
    """
    return {
        "peak_allocated_bytes": _most(rank.peak_allocated_bytes for rank in ranks),
        "peak_reserved_bytes": _most(rank.peak_reserved_bytes for rank in ranks),
        "peak_resident_bytes": _most(rank.peak_resident_bytes for rank in ranks),
        "step_time_s": typical_step_time_s(training.step_times_s),
        "tokens_per_second": statistics.median(
            training.tokens_per_second[1:] or training.tokens_per_second
        ),
        "mean_row_tokens": training.mean_row_tokens,
        "run_time_s": training.run_time_s,
        "ranks": [asdict(rank) for rank in ranks],
    }


def predicted_parts(plan: Plan) -> PredictedParts:
    """Return what the plan predicts of the parts of a step.

    Without a prediction backward takes twice as long as forward: twice its matrix products.
    """
    told = plan.prediction
    return PredictedParts(
        backward_over_forward=told.backward_over_forward or 2.0,
        communication_share=told.communication_share,
        launch_share=told.launch_share,
    )


def utilisation(plan: Plan, training: Training) -> dict[str, Any]:
    """Return where a step went on every rank, and what kept devices idle."""
    predicted = predicted_parts(plan)
    found = losses_of(training.parts, predicted, saving_share=training.saving_share)
    return {
        "ranks": [asdict(times) for times in rank_times(training.parts, predicted)],
        "saving_share": training.saving_share,
        "losses": [loss.as_dict() for loss in found],
    }


def _most(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
