"""Runs side by side: what was measured of each, and the settings in which they differ."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run.finished_run import finished_run
from launcher.storage.json_files import read_json
from planner.base.console import print_unpadded, wide_console
from planner.base.phrases import Phrase
from planner.base.text_files import read_text
from planner.base.units import format_duration, format_gib
from planner.page.side_by_side import UNKNOWN, SideBySide
from planner.plan.plan_differences import plan_differences
from planner.plan.schema import Plan

MEASURED = ("peak_allocated_bytes", "peak_resident_bytes", "step_time_s", "tokens_per_second")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A finished run."""

    name: str
    plan: Plan
    report: dict[str, Any]
    """The content of its ``report.json``."""
    evaluation_loss: float | None
    """Loss of the last evaluation; None for a run without any."""


def compare_runs(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print finished runs side by side; raise InvalidRequestError for what is none."""
    runs = [read_run(path) for path in paths]
    if as_json:
        print(json.dumps(comparison_document(runs), indent=2))
    else:
        print_unpadded(wide_console(sys.stdout), comparison_table(runs))


def read_run(path: Path) -> ComparedRun:
    """Return the finished run of a directory or plan; raise InvalidRequestError without one."""
    run, plan = finished_run(path)
    rows = read_text(run.evaluations).splitlines() if run.evaluations.is_file() else []
    return ComparedRun(
        name=str(path),
        plan=plan,
        report=read_json(run.report),
        evaluation_loss=json.loads(rows[-1])["eval_loss"] if rows else None,
    )


def comparison_document(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Return the comparison as plain data; bytes are integers."""
    return {
        "runs": [
            {
                "run": run.name,
                **run.report["training"],
                "evaluation_loss": run.evaluation_loss,
                **{key: run.report["measured"][key] for key in (*MEASURED, "run_time_s")},
                "predicted": {
                    key: getattr(run.plan.prediction, key)
                    for key in ("peak_allocated_bytes", "step_time_s", "tokens_per_second")
                },
            }
            for run in runs
        ],
        "differences": plan_differences([run.plan for run in runs]),
    }


def comparison_table(runs: Sequence[ComparedRun]) -> SideBySide:
    """Return the comparison as a table with a column for each run."""
    different = list(plan_differences([run.plan for run in runs]).items())
    words = [_words(run) for run in runs]
    rows = [(key, [each[key] for each in words]) for key in words[0]]
    heading = Phrase("differs") if different else Phrase("nothing differs")
    return SideBySide(
        [run.name for run in runs], [(Phrase("measured"), rows), (heading, different)]
    )


def _words(run: ComparedRun) -> dict[str, str]:
    training, measured = run.report["training"], run.report["measured"]
    predicted, loss = run.plan.prediction, run.evaluation_loss
    on_gpu = measured["peak_allocated_bytes"] is not None
    memory = measured["peak_allocated_bytes" if on_gpu else "peak_resident_bytes"]
    expected = f"{format_gib(predicted.peak_allocated_bytes)} GiB"
    if not on_gpu:
        low, high = format_gib(predicted.low_bytes), format_gib(predicted.high_bytes)
        expected = Phrase("{low} to {high} GiB", low=low, high=high)
    speed = predicted.tokens_per_second
    return {
        Phrase("loss, first"): f"{training['first_loss']:.4f}",
        Phrase("loss, last"): f"{training['last_loss']:.4f}",
        Phrase("loss, last evaluation"): UNKNOWN if loss is None else f"{loss:.4f}",
        Phrase("steps"): f"{training['num_steps']:,}",
        Phrase("time"): format_duration(measured["run_time_s"]),
        Phrase("tokens per second"): f"{measured['tokens_per_second']:,.0f}",
        Phrase("tokens per second, predicted"): UNKNOWN if speed is None else f"{speed:,.0f}",
        Phrase("peak memory"): f"{format_gib(memory)} GiB",
        Phrase("peak memory, predicted"): expected,
    }
