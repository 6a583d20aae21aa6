"""What is printed when a run has ended, well or not."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from launcher.compat.torch_text import before_elastic
from launcher.run.output import last_stack, tail
from launcher.run.run_directory import RunDirectory
from planner.base.phrases import Joined, Phrase, from_data
from planner.base.units import format_duration, format_gib
from planner.plan.prediction_section import PredictionSection
from planner.plan.schema import Plan

TAIL_LINES = 15
"""Number of lines of a log or a stack that are shown."""
UNKNOWN = "-"


def summary_table(plan: Plan, report: Mapping[str, Any]) -> Table:
    """Return the table of predicted and measured memory, time and speed.

    ``report`` is the content of ``report.json``.
    """
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{plan.model.name}, {plan.method}", title_style="bold"
    )
    table.add_column("")
    table.add_column(Phrase("predicted"), justify="right")
    table.add_column(Phrase("measured"), justify="right")
    for row in measured_rows(plan, report):
        table.add_row(*row)
    return table


def measured_rows(plan: Plan, report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what was measured, in words, with its prediction and its value."""
    predicted, measured = plan.prediction, report["measured"]
    speed = predicted.tokens_per_second
    return [
        *_memory_rows(plan, measured),
        (
            Phrase("time per step"),
            UNKNOWN if predicted.step_time_s is None else format_duration(predicted.step_time_s),
            format_duration(measured["step_time_s"]),
        ),
        (
            Phrase("tokens per second"),
            UNKNOWN if speed is None else f"{speed:,.0f}",
            f"{measured['tokens_per_second']:,.0f}",
        ),
    ]


def _memory_rows(plan: Plan, measured: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    predicted = plan.prediction
    if measured["peak_allocated_bytes"] is None:
        resident = measured["peak_resident_bytes"]
        return [(Phrase("peak resident per process"), _range(predicted), _gib(resident))]
    used_bytes = max(rank["device_used_bytes"] for rank in measured["ranks"])
    return [
        (
            Phrase("peak allocated per GPU"),
            _gib(predicted.peak_allocated_bytes),
            _gib(measured["peak_allocated_bytes"]),
        ),
        (Phrase("peak reserved per GPU"), UNKNOWN, _gib(measured["peak_reserved_bytes"])),
        (Phrase("in use per GPU at the end"), _range(predicted), _gib(used_bytes)),
    ]


def _range(predicted: PredictionSection) -> str:
    return f"{format_gib(predicted.low_bytes)}-{_gib(predicted.high_bytes)}"


def _gib(num_bytes: int) -> str:
    return f"{format_gib(num_bytes)} GiB"


def closing_lines(plan: Plan, run: RunDirectory, report: dict[str, Any]) -> list[str]:
    """Return the lines below the table: the loss, the place of the result, the next command."""
    training, seconds = report["training"], report["measured"]["run_time_s"]
    if run.probe.exists():
        told = Phrase(
            "{num_steps} {num_steps[step|steps]} of the longest batch; nothing is saved",
            num_steps=training["num_steps"],
        )
        return [told, *_idle(report)]
    kind = Phrase("model") if plan.adapter is None else Phrase("adapter")
    return [
        *_idle(report),
        Phrase(
            "loss {first:.4f} -> {last:.4f} in {num_steps} {num_steps[step|steps]}, {duration}",
            first=training["first_loss"],
            last=training["last_loss"],
            num_steps=training["num_steps"],
            duration=format_duration(seconds),
        ),
        Joined(": ", [kind, str(run.result(plan))]),
        _next_step(plan, run),
    ]


def _idle(report: dict[str, Any]) -> list[str]:
    """Return a line for everything that kept devices idle."""
    return [from_data(loss["phrase"]) for loss in report["utilisation"]["losses"]]


def _next_step(plan: Plan, run: RunDirectory) -> str:
    """Return the line with the commands that show what the model has learnt."""
    chat = shlex.join(["launch", "--chat", str(run.path)])
    if plan.data.source == "demo":
        quiz = shlex.join(["python", "-m", "launcher.quiz", str(run.path)])
        return Phrase("next: {quiz}, or {chat}", quiz=quiz, chat=chat)
    return Phrase("next: {command}", command=chat)


def failure_lines(log_file: Path, what: str) -> list[str]:
    """Return a line that says what happened, and the end of the log, which says why."""
    lines = tail(log_file, TAIL_LINES)
    if not lines:
        return [Phrase("error: {what}. The log is {log_file}", what=what, log_file=log_file)]
    return [
        Phrase("error: {what}. The end of {log_file}:", what=what, log_file=log_file),
        *(f"  {line}" for line in lines),
    ]


def early_failure_lines(launcher_log: Path, what: str) -> list[str]:
    """Return the same lines of a rank that ended before it had a log file."""
    lines = before_elastic(launcher_log)[-TAIL_LINES:]
    return [
        Phrase("error: {what}. From {launcher_log}:", what=what, launcher_log=launcher_log),
        *(f"  {line}" for line in lines),
    ]


def stack_lines(log_file: Path, what: str) -> list[str]:
    """Return the same lines with the stack that the rank wrote when it was ended or crashed."""
    stack = last_stack(log_file, TAIL_LINES)
    if not stack:
        return failure_lines(log_file, what)
    return [
        Phrase(
            "error: {what}. Its stack, innermost first, from {log_file}:",
            what=what,
            log_file=log_file,
        ),
        *stack,
    ]
