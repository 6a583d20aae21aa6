"""What a person reads when a run has ended, well or not. Draws; measures nothing."""

import shlex
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from launcher.run_directory import RunDirectory
from launcher.screen import tail
from planner.plan import Plan
from planner.units import format_duration, format_gib

TAIL_LINES = 15
UNKNOWN = "-"


def summary_table(plan: Plan, report: dict[str, Any]) -> Table:
    """Predicted beside measured, then what came of the training."""
    predicted, measured = plan.prediction, report["measured"]
    table = Table(box=box.SIMPLE_HEAD, title=f"{plan.model.name}, {plan.method}", title_style="bold")
    table.add_column("")
    table.add_column("predicted", justify="right")
    table.add_column("measured", justify="right")
    on_gpu = measured["peak_allocated_bytes"] is not None
    peak = measured["peak_allocated_bytes"] if on_gpu else measured["peak_resident_bytes"]
    what = "peak allocated per GPU" if on_gpu else "peak resident per process"
    table.add_row(
        what, f"{format_gib(predicted.peak_allocated_bytes)} GiB", f"{format_gib(peak)} GiB"
    )
    if on_gpu:
        reserved = f"{format_gib(measured['peak_reserved_bytes'])} GiB"
        table.add_row("peak reserved per GPU", UNKNOWN, reserved)
    table.add_row(
        "time per step",
        UNKNOWN if predicted.step_time_s is None else format_duration(predicted.step_time_s),
        format_duration(measured["step_time_s"]),
    )
    table.add_row(
        "tokens per second",
        UNKNOWN if predicted.tokens_per_second is None else f"{predicted.tokens_per_second:,.0f}",
        f"{measured['tokens_per_second']:,.0f}",
    )
    return table


def closing_lines(plan: Plan, run: RunDirectory, report: dict[str, Any]) -> list[str]:
    training, seconds = report["training"], report["measured"]["run_time_s"]
    kind = "model" if plan.adapter is None else "adapter"
    quiz = shlex.join(["python", "-m", "launcher.quiz", str(run.path)])
    return [
        f"loss {training['first_loss']:.4f} -> {training['last_loss']:.4f} "
        f"in {training['num_steps']} steps, {format_duration(seconds)}",
        f"{kind}: {run.result(plan)}",
        f"next: {quiz}",
    ]


def failure_lines(log_file: Path, what: str) -> list[str]:
    """One line that says what happened, and the end of the log that says why."""
    lines = tail(log_file, TAIL_LINES)
    if not lines:
        return [f"error: {what}. Its log is {log_file}"]
    return [f"error: {what}. The end of {log_file}:", *(f"  {line}" for line in lines)]
