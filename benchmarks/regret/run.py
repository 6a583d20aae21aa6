"""Runs the requests that have no times yet; each run is saved, so that it can be continued."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import ValidationError, convert, structs, to_builtins

from benchmarks.measure.environment import ROOT, environment_of
from benchmarks.measure.matrix import Row
from benchmarks.measure.planning import NotPlannableError, Planned, plan_row
from benchmarks.measure.runner import why_it_ended
from benchmarks.regret.table import request_of
from launcher.run.rank_commands import elastic_command, planned_environment, rank_environment
from launcher.run.read_plan import plan_text
from planner.base.errors import InvalidFileError
from planner.base.output_file import write_whole
from planner.base.python_children import module_command
from planner.base.units import format_share
from planner.hardware.cluster import Cluster
from planner.hardware.measured.measurement import Measurement
from planner.measurement.measure import measured

LIMIT_S = 240.0
"""Seconds after which a layout is given up."""
DISTURBED_FROM = 0.1
"""Share of the cores that other programs used from which a time does not count, and is measured
again by the next run."""


@dataclass(kw_only=True)
class Results:
    """The file of the results: measurements by request and number of ranks, and the times of each
    layout."""

    path: Path
    environment: dict[str, Any]
    measurements: dict[str, Measurement] = field(default_factory=dict)
    times_s: dict[str, list[float]] = field(default_factory=dict)
    others_shares: dict[str, list[float]] = field(default_factory=dict)
    """Shares of the cores that other programs used meanwhile."""
    failed: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file whole."""
        content = {
            "run": {"benchmark": "regret"},
            "measured": {
                "times_s": self.times_s,
                "others_shares": self.others_shares,
                "failed": self.failed,
            },
            "environment": self.environment,
            "measurements": to_builtins(self.measurements),
        }
        write_whole(self.path, json.dumps(content, indent=1) + "\n")

    def counts(self, name: str) -> bool:
        """Return whether a layout has times, and no other program has disturbed any."""
        return name in self.times_s and max(self.others_shares[name]) < DISTURBED_FROM


def read_results(path: Path, cluster: Cluster) -> Results:
    """Return the results in a file, or none yet; raise ``InvalidFileError`` for those of another
    version."""
    if not path.is_file():
        return Results(path=path, environment=environment_of(cluster))
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        return Results(
            path=path,
            environment=content["environment"],
            measurements=convert(content["measurements"], dict[str, Measurement]),
            **content["measured"],
        )
    except (TypeError, ValidationError) as error:
        reason = f"it is of another version, remove it: {error}"
        raise InvalidFileError(path, None, reason) from error


def on_ranks(cluster: Cluster, ranks: int) -> Cluster:
    """Return so many devices of a cluster; on the CPU ranks share its cores."""
    link = cluster.link if ranks > 1 else "none"
    return structs.replace(cluster, gpus_per_node=ranks, link=link)


def with_rates(cluster: Cluster, measurement: Measurement) -> Cluster:
    """Return the cluster with rates that were measured."""
    return structs.replace(
        cluster, accelerator=structs.replace(cluster.accelerator, measured=measurement)
    )


def predicted(row: Row, results: Results, cluster: Cluster) -> Planned:
    """Return a row's plan with the rates that were measured beside its runs; raise
    ``NotPlannableError``."""
    rates = results.measurements[_measured_beside(row)]
    return plan_row(row, with_rates(on_ranks(cluster, row.world_size), rates))


def _measured_beside(row: Row) -> str:
    return f"{request_of(row)}, {row.world_size} ranks"


def run_missing(
    requests: list[list[Row]], results: Results, cluster: Cluster, *, steps: int, until_s: float
) -> Iterator[tuple[Row, str]]:
    """Run every request with a layout without a time that counts, save what came of it, and yield
    each layout with that."""
    for rows in requests:
        if all(results.counts(row.name) or row.name in results.failed for row in rows):
            continue
        if time.monotonic() > until_s:
            return
        yield from _run_request(rows, results, cluster, steps=steps)


def _run_request(
    rows: list[Row], results: Results, cluster: Cluster, *, steps: int
) -> Iterator[tuple[Row, str]]:
    """Measure the rates, then run the layouts of a request one after the other and once more in the
    opposite order: the machine's speed drifts, and layouts are compared with each other."""
    for row in rows:
        results.times_s.pop(row.name, None)
        results.others_shares.pop(row.name, None)
        results.measurements.pop(_measured_beside(row), None)
    for row in (*rows, *reversed(rows)):
        beside = _measured_beside(row)
        if row.name in results.failed:
            continue
        if beside not in results.measurements:
            results.measurements[beside] = measured(on_ranks(cluster, row.world_size), ROOT)
        try:
            found = run_row(predicted(row, results, cluster), steps=steps)
        except NotPlannableError as error:
            results.failed[row.name] = str(error)
            yield row, f"not planned: {error}"
        except RuntimeError as error:
            results.failed[row.name] = str(error)
            yield row, f"failed: {error}"
        else:
            results.times_s.setdefault(row.name, []).append(found["step_s"])
            results.others_shares.setdefault(row.name, []).append(found["others_share"])
            disturbed = "" if results.counts(row.name) else "; does not count"
            others = format_share(found["others_share"])
            yield row, f"{found['step_s']:.2f} s, other programs {others}{disturbed}"
        results.save()


def run_row(planned: Planned, *, steps: int) -> dict[str, float]:
    """Return what the child answers; raise ``RuntimeError`` with the reason if a step cannot be
    made."""
    plan = planned.plan
    with tempfile.TemporaryDirectory() as folder:
        plan_file, result, log = (Path(folder) / name for name in ("plan.yaml", "result", "log"))
        plan_file.write_text(plan_text(plan), encoding="utf-8")
        ranks = plan.parallel.world_size
        module = ["-m", "benchmarks.regret.child", str(plan_file), str(result)]
        start = (
            elastic_command(None, python=sys.executable, ranks=ranks)
            if ranks > 1
            else module_command("x")[:-2]
        )
        with log.open("wb") as output:
            try:
                code = subprocess.run(
                    [*start, *module, "--steps", str(steps)],
                    cwd=ROOT,
                    env=rank_environment(plan, planned_environment(plan, os.environ)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=LIMIT_S,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"no result within {LIMIT_S:.0f} s") from error
        if not result.is_file():
            raise RuntimeError(why_it_ended(code, log.read_text(errors="replace")))
        return convert(json.loads(result.read_bytes()), dict[str, float])
