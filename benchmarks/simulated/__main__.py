"""python -m benchmarks.simulated: plans on simulated cards, every phase against the closed form.

With the environment that ``make simulated`` makes. A point that has rows is not run again: the same
command goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from benchmarks.measure.environment import PACKAGES, host_environment
from benchmarks.simulated.points import Point, points
from benchmarks.simulated.result_rows import Row, append, read_rows
from benchmarks.simulated.summary import MARKS, PAGE, markdown, summary
from launcher.rehearsal.phases import Between, random_weights
from launcher.rehearsal.simulated import counted_side
from launcher.run.read_plan import read_plan
from launcher.simulated_gpu.environment import simulated_environment
from launcher.simulated_gpu.machine_file import parse_cards
from planner.allocator.training_steps import allocator_peak
from planner.plan.schema import Plan
from planner.search.candidate import Candidate
from planner.search.candidate_between_steps import between_steps
from planner.search.repredict import cluster_of, layout_of, workload_of
from planner.workload.dtypes import numerics_of

RESULTS = Path(__file__).parent.parent / "results" / "simulated.csv"
COLUMNS = (
    *("point", "phase", "predicted_bytes", "allocated_bytes", "reserved_bytes", "device_bytes"),
    *("plan_reserved_bytes", "replayed_bytes", "plan_low_bytes", "plan_high_bytes"),
    *("seconds", "reason"),
)
POINT_SECONDS = 600
MAX_CARDS = 4
NOT_REHEARSED = {"save"}
"""Where ranks share parameters or states: a rehearsal does not gather what is saved."""


def main() -> None:
    """Run what is left of the grid, or show what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--cards", help="only points on this card")
    parser.add_argument("--only", default="*", help="only points whose name matches, as in *qlora*")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument(
        "--again", action="store_true", help="predict what was counted, run nothing"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into the documentation, run nothing"
    )
    options = parser.parse_args()
    if options.again:
        predict_again(RESULTS)
    options.show |= options.again or options.write
    deadline = time.monotonic() + 60 * (0 if options.show else options.minutes)
    done = {row["point"] for row in read_rows(RESULTS)}
    left = [point for point in points() if point.name not in done]
    named = [point for point in left if fnmatch(point.name, options.only)]
    chosen = [point for point in named if options.cards in (None, point.card)]
    run_points(chosen, RESULTS, deadline)
    rows = read_rows(RESULTS)
    print(summary(rows))
    if options.write:
        MARKS.write(PAGE, markdown(rows))


def predict_again(path: Path) -> None:
    """Renew the predictions of all counted rows, as the planner makes them today."""
    rows, by_name = read_rows(path), {point.name: point for point in points()}
    renewed: list[Row] = []
    for name, group in groupby(rows, key=lambda row: row["point"]):
        of_point = list(group)
        with TemporaryDirectory(prefix="simulated-point-") as folder:
            plan = None if of_point[0]["reason"] else planned(by_name[name], Path(folder))
        known = predictions(plan) if isinstance(plan, Plan) else {}
        renewed += [{**row, **known.get(row["phase"], {})} for row in of_point]
    path.unlink()
    append(path, COLUMNS, renewed)


def run_points(chosen: Sequence[Point], path: Path, deadline: float) -> None:
    """Run points card by card, since a process sees one machine, and keep each as it ends."""
    for card in dict.fromkeys(point.card for point in chosen):
        if time.monotonic() > deadline:
            return
        with fork_server(card) as server:
            for point in (point for point in chosen if point.card == card):
                if time.monotonic() > deadline:
                    return
                rows = run_point(server, point)
                append(path, COLUMNS, rows)
                keep_environment(path)
                print(point.name, rows[-1]["reason"] or f"{rows[-1]['seconds']} s", flush=True)


@contextmanager
def fork_server(card: str) -> Iterator[subprocess.Popen[str]]:
    """A process with the training stack on a machine of four such cards."""
    with TemporaryDirectory(prefix="simulated-gpu-") as scratch:
        cards = parse_cards(f"{card}:{MAX_CARDS}")
        with serving(simulated_environment(cards, os.environ, Path(scratch))) as server:
            yield server


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process with the training stack in this environment of simulated cards."""
    expandable = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.simulated.fork_server"],
        env={**environment, **expandable, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield server
    finally:
        server.communicate(timeout=POINT_SECONDS)


def run_point(server: subprocess.Popen[str], point: Point) -> list[Row]:
    """Return a row per phase, or one with the reason why there is none."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="simulated-point-") as name:
        folder = Path(name)
        plan = planned(point, folder)
        if isinstance(plan, str):
            return [row_of(point, reason=plan)]
        codes = ask(server, folder, point.count, "evaluation")
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed or None in codes:
            rank = failed[0] if failed else codes.index(None)
            said = last_line((folder / f"rank-{rank}.err").read_text(errors="replace"))
            return [row_of(point, reason=said or f"not ended within {POINT_SECONDS} s")]
        ranks = [json.loads((folder / f"rank-{n}.json").read_text()) for n in range(point.count)]
    return list(phase_rows(point, plan, ranks, round(time.monotonic() - began, 1)))


def planned(point: Point, folder: Path) -> Plan | str:
    """Return the point's plan, which is written into the folder, or why there is none."""
    path = folder / "plan.yaml"
    asked = [sys.executable, "-m", "planner", *point.arguments, "-o", str(path)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return f"not planned: {last_line(done.stderr)}" if done.returncode else read_plan(path)


def ask(
    server: subprocess.Popen[str], folder: Path, ranks: int, between: Between
) -> list[int | None]:
    """Return the exit codes of the ranks of a folder's plan."""
    question = {
        "folder": str(folder),
        "ranks": ranks,
        "seconds": POINT_SECONDS,
        "between": between,
    }
    pipes: tuple[IO[str] | None, IO[str] | None] = server.stdin, server.stdout
    to, back = pipes
    assert to is not None
    assert back is not None
    to.write(json.dumps(question) + "\n")
    to.flush()
    codes: list[int | None] = json.loads(back.readline())
    return codes


def phase_rows(point: Point, plan: Plan, ranks: Any, seconds: float) -> Iterator[Row]:
    """Yield what was predicted and counted of each phase that a rehearsal has."""
    predicted = predictions(plan)
    for phase, readings in counted_side(ranks).phases.items():
        if plan.parallel.is_sharded and phase in NOT_REHEARSED:
            continue
        yield row_of(
            point,
            phase=phase,
            **predicted[phase],
            allocated_bytes=readings["allocated"],
            reserved_bytes=readings["reserved"],
            device_bytes=readings["device_used"],
            seconds=seconds,
        )


def predictions(plan: Plan) -> dict[str, Row]:
    """Return what is predicted of each phase; the plan's own figures, and the allocator's replay,
    are of the whole run."""
    workload, layout = workload_of(plan), layout_of(plan)
    candidate = Candidate(workload=workload, layout=layout, cluster=cluster_of(plan))
    whole = {
        "plan_reserved_bytes": candidate.expected.reserved_bytes,
        "replayed_bytes": replayed(candidate),
        "plan_low_bytes": plan.prediction.low_bytes,
        "plan_high_bytes": plan.prediction.high_bytes,
    }
    phases = random_weights(plan) | between_steps(candidate)._asdict()
    sums = {phase: sum(parts.values()) for phase, parts in phases.items()}
    return {phase: {"predicted_bytes": size, **whole} for phase, size in sums.items()}


def replayed(candidate: Candidate) -> int | None:
    """Return the reserved bytes of two steps; None for several ranks."""
    workload, layout = candidate.workload, candidate.layout
    if layout.strategy != "single":
        return None
    kinds, batch = numerics_of(workload, layout), candidate.worst_batch
    found = allocator_peak(workload, layout, batch, kinds, expandable_segments=True)
    return found.peak_reserved_bytes


def row_of(point: Point, **known: Any) -> Row:
    """Return a row with all columns."""
    return {**dict.fromkeys(COLUMNS, ""), "point": point.name, **known}


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def keep_environment(path: Path) -> None:
    """Write the environment of the counting beside the results."""
    kept = {"device": "simulated", **host_environment(PACKAGES)}
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
