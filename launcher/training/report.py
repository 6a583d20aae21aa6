"""``report.json``: the prediction of a run beside its measurements."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from msgspec import to_builtins

from launcher.data.inputs import Inputs
from launcher.display.model_card import CARD, model_card
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
    """Write the model card of a finished run, and last its report."""
    losses = logged_losses(run)
    report = {
        "report_version": REPORT_VERSION,
        "status": "finished",
        "predicted": to_builtins(plan.prediction),
        "measured": measured(training, ranks),
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
        "run_time_s": training.run_time_s,
        "ranks": [asdict(rank) for rank in ranks],
    }


def _most(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
