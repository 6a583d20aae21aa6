"""What is printed when a run has ended, well or not."""

import shlex
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from launcher.compat.torch_text import before_elastic
from launcher.run.output import last_stack, tail
from launcher.run.run_directory import RunDirectory
from planner.base.units import format_duration, format_gib
from planner.plan.schema import Plan

TAIL_LINES = 15
"""Number of lines of a log or a stack that are shown."""
UNKNOWN = "-"


def summary_table(plan: Plan, report: dict[str, Any]) -> Table:
    """Return the table of predicted and measured memory, time and speed.

    ``report`` is the content of ``report.json``.
    """
    predicted, measured = plan.prediction, report["measured"]
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{plan.model.name}, {plan.method}", title_style="bold"
    )
    table.add_column("")
    table.add_column("predicted", justify="right")
    table.add_column("measured", justify="right")
    on_gpu = measured["peak_allocated_bytes"] is not None
    if on_gpu:
        what, measured_bytes = "peak allocated per GPU", measured["peak_allocated_bytes"]
        expected_bytes = predicted.peak_allocated_bytes
    else:
        what, measured_bytes = "peak resident per process", measured["peak_resident_bytes"]
        expected_bytes = planned_resident_bytes(plan)
    table.add_row(what, f"{format_gib(expected_bytes)} GiB", f"{format_gib(measured_bytes)} GiB")
    if on_gpu:
        reserved = f"{format_gib(measured['peak_reserved_bytes'])} GiB"
        table.add_row("peak reserved per GPU", UNKNOWN, reserved)
        used_bytes = max(rank["device_used_bytes"] for rank in measured["ranks"])
        expected = f"{format_gib(predicted.low_bytes)}-{format_gib(predicted.high_bytes)} GiB"
        table.add_row("in use per GPU at the end", expected, f"{format_gib(used_bytes)} GiB")
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


def planned_resident_bytes(plan: Plan) -> int:
    """Return the host memory in bytes that one of a node's processes is predicted to hold."""
    return plan.prediction.host_ram_bytes // plan.parallel.gpus_per_node


def closing_lines(plan: Plan, run: RunDirectory, report: dict[str, Any]) -> list[str]:
    """Return the lines below the table: the loss, the place of the result, the next command."""
    training, seconds = report["training"], report["measured"]["run_time_s"]
    kind = "model" if plan.adapter is None else "adapter"
    if run.probe.exists():
        return [
            f"{training['num_steps']} steps of the longest batch; nothing is saved",
            *_idle(report),
        ]
    return [
        *_idle(report),
        f"loss {training['first_loss']:.4f} -> {training['last_loss']:.4f} "
        f"in {training['num_steps']} steps, {format_duration(seconds)}",
        f"{kind}: {run.result(plan)}",
        _next_step(plan, run),
    ]


def _idle(report: dict[str, Any]) -> list[str]:
    """Return a line for everything that kept devices idle."""
    return [loss["text"] for loss in report["utilisation"]["losses"]]


def _next_step(plan: Plan, run: RunDirectory) -> str:
    if plan.data.source == "demo":
        return f"next: {shlex.join(['python', '-m', 'launcher.quiz', str(run.path)])}"
    loader = (
        "transformers.AutoModelForCausalLM"
        if plan.adapter is None
        else "peft.AutoPeftModelForCausalLM"
    )
    return f"use it: {loader}.from_pretrained({str(run.result(plan))!r})"


def failure_lines(log_file: Path, what: str) -> list[str]:
    """Return a line that says what happened, and the end of the log, which says why."""
    lines = tail(log_file, TAIL_LINES)
    if not lines:
        return [f"error: {what}. The log is {log_file}"]
    return [f"error: {what}. The end of {log_file}:", *(f"  {line}" for line in lines)]


def early_failure_lines(launcher_log: Path, what: str) -> list[str]:
    """Return the same lines of a rank that ended before it had a log file."""
    lines = before_elastic(launcher_log)[-TAIL_LINES:]
    return [f"error: {what}. From {launcher_log}:", *(f"  {line}" for line in lines)]


def stack_lines(log_file: Path, what: str) -> list[str]:
    """Return the same lines with the stack that the rank wrote when it was ended or crashed."""
    stack = last_stack(log_file, TAIL_LINES)
    if not stack:
        return failure_lines(log_file, what)
    return [f"error: {what}. Its stack, innermost first, from {log_file}:", *stack]
