"""Runs rows one after another until the time is over; each leaves a file, and none is run twice."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from benchmarks.measure.environment import ROOT, environment_of
from benchmarks.measure.matrix import Row
from benchmarks.measure.planning import NotPlannableError, Planned, plan_row
from launcher.run.rank_commands import (
    planned_environment,
    rank_environment,
)
from launcher.run.read_plan import plan_text
from planner.hardware.cluster import Cluster
from planner.plan.schema import Plan

NOT_PLANNED = "not planned"
"""Status of rows that the planner cannot express; they are tried again each time."""
OUT_OF_TIME = "out of time"
LEAST_S = 20.0
"""Least seconds that a run needs: the libraries alone take half of it to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    cluster: Cluster
    results: Path
    steps: int
    seconds_per_run: float
    memory_limit_bytes: int | None = None


def result_file(row: Row, settings: Settings) -> Path:
    """Return the file of a row on this device, by which a row that was run is recognised."""
    return settings.results / f"{row.name}--{settings.cluster.accelerator.label}x1.json"


def read_result(row: Row, settings: Settings) -> dict[str, Any] | None:
    path = result_file(row, settings)
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def is_done(row: Row, settings: Settings) -> bool:
    found = read_result(row, settings)
    return found is not None and found["measured"]["status"] != NOT_PLANNED


def run_rows(rows: list[Row], settings: Settings, *, until_s: float) -> Iterator[tuple[Row, str]]:
    """Run each row that is not done and yield it with its status, until the time is over.

    ``until_s`` is a reading of ``time.monotonic``.
    """
    for row in rows:
        if is_done(row, settings):
            continue
        left_s = until_s - time.monotonic()
        if left_s < min(LEAST_S, settings.seconds_per_run):
            return
        document = run_row(row, settings, left_s=left_s)
        if document is None:
            return
        write_result(result_file(row, settings), document)
        yield row, document["measured"]["status"]


def run_row(row: Row, settings: Settings, *, left_s: float) -> dict[str, Any] | None:
    """Return a row's result, or None if the time was over before it could have ended."""
    try:
        planned = plan_row(row, settings.cluster)
    except NotPlannableError as error:
        return _document(row, settings, None, {"status": NOT_PLANNED, "reason": str(error)}, {})
    limit_s = min(left_s, settings.seconds_per_run)
    with tempfile.TemporaryDirectory() as directory:
        found = run_child(planned.plan, Path(directory), settings, limit_s=limit_s)
    if found["measured"]["status"] == OUT_OF_TIME and limit_s < settings.seconds_per_run:
        return None
    return _document(row, settings, planned, found["measured"], found["environment"])


def run_child(plan: Plan, directory: Path, settings: Settings, *, limit_s: float) -> dict[str, Any]:
    """Return what the child wrote, or how it ended if it wrote no result."""
    plan_file, result, log = (directory / name for name in ("plan.yaml", "result.json", "log"))
    plan_file.write_text(plan_text(plan), encoding="utf-8")
    command = child_command(plan_file, result, settings)
    environment = rank_environment(plan, planned_environment(plan, os.environ))
    with log.open("wb") as errors:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return _ended(OUT_OF_TIME, f"stopped after {limit_s:.0f} s")
        finally:
            _end(child)
    if result.is_file():
        document: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return document
    return _ended("failed", why_it_ended(code, log.read_text(encoding="utf-8", errors="replace")))


def child_command(plan_file: Path, result: Path, settings: Settings) -> list[str]:
    limit = settings.memory_limit_bytes
    return [
        *(sys.executable, "-m", "benchmarks.measure.child", str(plan_file), str(result)),
        *("--steps", str(settings.steps)),
        *(() if limit is None else ("--memory-limit", str(limit))),
    ]


_ERROR = re.compile(r"(\[rank\d+\]: )?[\w.]*(?<!ChildFailed)(Error|Exception)\b")
"""An error at the end of a traceback, of one rank of several too; torch elastic's own follows from
it."""


def why_it_ended(code: int, log: str) -> str:
    """Return the name of the signal, else the last error of the log, else its last line."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines)[-1][:300] if lines else f"ended with exit code {code} and no word"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child with all processes that it started, and wait until its memory is free."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _ended(status: str, reason: str) -> dict[str, Any]:
    return {"measured": {"status": status, "reason": reason}, "environment": {}}


def _document(
    row: Row,
    settings: Settings,
    planned: Planned | None,
    measured: dict[str, Any],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Return the three blocks of benchmarks/README.md, with what was predicted beside what was
    measured."""
    return {
        "run": {
            "benchmark": "measure",
            "row": asdict(row),
            "steps": settings.steps,
            "memory_limit_bytes": settings.memory_limit_bytes,
            "plan": None if planned is None else to_builtins(planned.plan),
        },
        "predicted": None if planned is None else planned.predicted_bytes,
        "measured": measured,
        "environment": environment_of(settings.cluster) | environment,
    }


def write_result(path: Path, document: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
