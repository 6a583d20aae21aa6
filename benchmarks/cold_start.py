"""Wall time and memory of ``plan`` from a cold start, next to an interpreter that does nothing.

python -m benchmarks.cold_start [--write]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

RUNS = 20
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tuneplan", "pydantic", "pyyaml", "rich", "typer")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "plan, card named": [
        *(sys.executable, "-m", "planner", "--model", "chatglm3-6b-base"),
        *("--gpus", "8x24G", "-o", "plan.yaml", "--force"),
    ],
    "plan, machine read": [
        *(sys.executable, "-m", "planner", "--model", "smollm2-135m"),
        *("--gpus", "auto", "-o", "plan.yaml", "--force"),
    ],
}


def seconds(command: list[str], directory: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure() -> dict[str, object]:
    """Median and spread of each command, run in turn so that noise falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(RUNS):
            for name, command in COMMANDS.items():
                times[name].append(seconds(command, Path(directory)))
    return {
        "run": {"benchmark": "cold_start", "runs": RUNS},
        "measured": {
            name: {
                "median_s": round(statistics.median(values), 4),
                "least_s": round(min(values), 4),
                "most_s": round(max(values), 4),
            }
            for name, values in times.items()
        }
        | {"largest_resident_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024},
        "environment": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "date": time.strftime("%Y-%m-%d"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    options = parser.parse_args()
    text = json.dumps(measure(), indent=2) + "\n"
    print(text, end="")
    if options.write:
        file = RESULTS / f"cold-start--{time.strftime('%Y-%m-%d')}.json"
        RESULTS.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
