"""Run the matrix on this machine: python -m benchmarks.measure [--minutes 9] [--device cpu]"""

import fnmatch
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console

from benchmarks.measure.matrix import Row, read_matrix
from benchmarks.measure.planning import NotPlannableError, one_device, plan_row
from benchmarks.measure.runner import Settings, read_result, run_rows
from benchmarks.measure.table import closing_line, list_table, reason_lines, summary_table
from planner.base.command_line import Option, run_command
from planner.base.errors import InvalidRequestError
from planner.base.units import parse_size
from planner.hardware.cluster import Cluster

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "measured"
MATRICES = {"cuda": HERE / "matrix.yaml", "cpu": HERE / "matrix-cpu.yaml"}
WIDTH = 140


def measure(
    *,
    device: Annotated[Literal["cuda", "cpu"], Option("Device to run on.")] = "cuda",
    minutes: Annotated[float, Option("Minutes after which no run is under way.", minimum=0)] = 9,
    only: Annotated[
        str, Option("Rows to run, by a pattern of names such as *--qlora--*.", metavar="PATTERN")
    ] = "*",
    listing: Annotated[bool, Option("List the rows, and run none.", flags=("--list",))] = False,
    steps: Annotated[int, Option("Steps per run.", minimum=1)] = 3,
    seconds_per_run: Annotated[float, Option("Longest time of one run.", minimum=1)] = 180,
    memory_limit: Annotated[
        str | None,
        Option("Most memory of one run, with --device cpu; more is refused.", metavar="SIZE"),
    ] = None,
    matrix: Annotated[
        Path | None, Option("File of rows to run instead of matrix.yaml or matrix-cpu.yaml.")
    ] = None,
    results: Annotated[
        Path,
        Option("Folder of the results; benchmarks/results/measured if left out.", metavar="DIR"),
    ] = RESULTS,
) -> None:
    """Run the rows that have no result yet, then show predicted beside measured."""
    until_s = time.monotonic() + 60 * minutes
    settings = Settings(
        cluster=one_device(device, os.environ, listing=listing),
        results=results,
        steps=steps,
        seconds_per_run=seconds_per_run,
        memory_limit_bytes=limit_of(memory_limit, device),
    )
    rows = matching(read_matrix(matrix or MATRICES[device]), only)
    console = Console(width=WIDTH, highlight=False, markup=False)
    if listing:
        predicted = [peak_or_reason(row, settings.cluster) for row in rows]
        found = [read_result(row, settings) for row in rows]
        console.print(list_table(rows, predicted, found))
        for row, known in zip(rows, predicted, strict=True):
            if isinstance(known, str):
                console.print(f"{row.name}: {known}", soft_wrap=True)
        return
    for row, status in run_rows(rows, settings, until_s=until_s):
        console.print(f"{status}: {row.name}", soft_wrap=True)
    found = [read_result(row, settings) for row in rows]
    console.print(summary_table(rows, found))
    for line in (*reason_lines(rows, found), closing_line(found)):
        console.print(line, soft_wrap=True)


def matching(rows: list[Row], pattern: str) -> list[Row]:
    kept = [row for row in rows if fnmatch.fnmatchcase(row.name, pattern)]
    if not kept:
        raise InvalidRequestError(f"--only {pattern!r} matches no row: --list shows their names")
    return kept


def limit_of(text: str | None, device: str) -> int | None:
    if text is None:
        return None
    if device != "cpu":
        raise InvalidRequestError("--memory-limit needs --device cpu: a card has its own limit")
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidRequestError(f"--memory-limit {error}") from error


def peak_or_reason(row: Row, cluster: Cluster) -> int | str:
    try:
        return plan_row(row, cluster).predicted_bytes["allocated"]
    except NotPlannableError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(run_command(measure))
