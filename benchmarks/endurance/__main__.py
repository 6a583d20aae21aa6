"""``python -m benchmarks.endurance [--steps N] [--write]``

A tiny model is trained by ``launch`` on the CPU for thousands of steps, with a checkpoint after
every hundredth. Memory must not grow beyond 1 % after the first twentieth, and ``metrics.jsonl``
must have every step once, in order. The quickest quarter of steps at the end is put beside that of
the beginning: other programs on the machine slow single steps, and hardly ever a quarter of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.environment import PACKAGES, host_environment
from tests.launcher.launching import environment, write_plan, write_samples
from tests.launcher.tiny_model import write_tiny_model

RESULTS = Path(__file__).parents[1] / "results"
MOST_GROWTH = 0.01
"""Most that memory may grow by, as a share."""
SAVE_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.endurance")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        rows = trained(Path(folder), given.steps)
    measured = measurements(rows, given.steps)
    print(json.dumps(measured, indent=1))
    if given.write:
        write(measured)
    if not measured["complete_and_in_order"] or measured["memory_growth"] > MOST_GROWTH:
        raise SystemExit(1)


def trained(folder: Path, steps: int) -> list[dict[str, float]]:
    """Return the metrics of every step of a run."""
    checkpoint = folder / "checkpoint"
    write_tiny_model(checkpoint)
    write_samples(folder)
    training = {"max_steps": steps, "save_steps": SAVE_STEPS}
    write_plan(folder, model__source=str(checkpoint), training=training)
    command = [sys.executable, "-m", "launcher", "plan.yaml"]
    variables = environment(XDG_CACHE_HOME=str(folder / "cache"))
    subprocess.run(command, cwd=folder, env=variables, check=True, stderr=subprocess.DEVNULL)
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def measurements(rows: Sequence[dict[str, float]], steps: int) -> dict[str, Any]:
    """Return what the metrics say of the run's first and last twentieth."""
    part = max(2, steps // 20)
    first, last = rows[part : 2 * part], rows[-part:]
    early_bytes, late_bytes = first[0]["peak_used_bytes"], last[-1]["peak_used_bytes"]
    early_s, late_s = _quick_step_s(first), _quick_step_s(last)
    return {
        "steps": steps,
        "complete_and_in_order": [row["step"] for row in rows] == list(range(1, steps + 1)),
        "peak_resident_bytes": [row["peak_used_bytes"] for row in rows[part :: 2 * part]],
        "memory_growth": late_bytes / early_bytes - 1,
        "step_time_s": {"first": early_s, "last": late_s},
        "step_time_ratio": late_s / early_s,
    }


def _quick_step_s(rows: Sequence[dict[str, float]]) -> float:
    """Return the time that a quarter of the steps do not exceed."""
    return statistics.quantiles([row["step_time_s"] for row in rows], n=4)[0]


def write(measured: dict[str, Any]) -> None:
    """Write the result to a file of the day."""
    document = {
        "run": {"benchmark": "endurance"},
        "measured": measured,
        "environment": host_environment(PACKAGES) | {"load_average": list(os.getloadavg())},
    }
    file = RESULTS / f"endurance--{time.strftime('%Y-%m-%d')}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
