"""Cold start of ``plan`` beside other estimators, candidates decided per second, and scaling.

python -m benchmarks.search [--write]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure.environment import host_environment
from benchmarks.search.commands import Command, ours, peers

RUNS = 5
RESULTS = Path(__file__).parent.parent / "results"
PACKAGES = ("tuneplan", "msgspec", "pyyaml", "rich")
REQUESTS = {
    "one card": ("chatglm3-6b-base", "rtx-4090", "1", "0"),
    "eight cards": ("chatglm3-6b-base", "8x24G", "1", "0"),
    "10,080 candidates": ("chatglm3-6b-base", "8xa100-sxm-80gb", "1", str(8 * 277_200)),
    "64 GPUs": ("llama-3.1-70b", "8xh100-sxm-80gb", "8", "0"),
    "512 GPUs": ("llama-3.1-70b", "8xh100-sxm-80gb", "64", "0"),
    "4,096 GPUs": ("llama-3.1-70b", "8xh100-sxm-80gb", "512", "0"),
}
"""Requests by name: model, cards per node, nodes, global batch or 0 for the recipe's."""


def run_once(command: Command, directory: Path) -> dict[str, Any]:
    """Return wall and CPU seconds and the largest resident memory of one process, or its last
    line."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command.arguments,
        cwd=directory,
        env=command.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    found = {
        "wall_s": time.perf_counter() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "resident_bytes": usage.ru_maxrss * 1024,
    }
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code:
        return {"failed": (errors.strip().splitlines() or [f"exit code {code}"])[-1][:200]}
    return found


def cold_starts() -> dict[str, Any]:
    """Run every command in turn, so that noise affects all alike."""
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        commands = [*ours(), *peers(directory)]
        for number in range(RUNS + 1):
            for command in commands:
                measured = run_once(command, directory)
                if number or "failed" in measured:  # the first run fills caches of files
                    found.setdefault(command.name, []).append(measured)
    return {name: _described(runs) for name, runs in found.items()}


def _described(runs: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [each for each in runs if "failed" in each]
    if failed:
        return failed[0]
    walls = [each["wall_s"] for each in runs]
    return {
        "median_s": round(statistics.median(walls), 4),
        "least_s": round(min(walls), 4),
        "most_s": round(max(walls), 4),
        "least_cpu_s": round(min(each["cpu_s"] for each in runs), 4),
        "resident_mib": round(max(each["resident_bytes"] for each in runs) / 2**20, 1),
    }


def searches() -> dict[str, Any]:
    """Decide each request in a separate process, and keep the fastest of several, since only noise
    makes one slower than another."""
    found = {}
    for name, arguments in REQUESTS.items():
        answers = [_asked(arguments) for _ in range(RUNS // 2)]
        best = min(answers, key=lambda answer: answer["choice_cpu_s"])
        best["report_cpu_s"] = min(answer["report_cpu_s"] for answer in answers)
        best["candidates_per_cpu_s"] = round(best["candidates"] / best["choice_cpu_s"])
        found[name] = best
    return found


def _asked(arguments: tuple[str, ...]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.search.ask", *arguments]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def measure() -> dict[str, Any]:
    return {
        "run": {"benchmark": "search", "runs": RUNS, "requests": REQUESTS},
        "measured": {"cold_start": cold_starts(), "search": searches()},
        "environment": host_environment(PACKAGES),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    options = parser.parse_args()
    text = json.dumps(measure(), indent=2) + "\n"
    print(text, end="")
    if options.write:
        file = RESULTS / f"search--{time.strftime('%Y-%m-%d')}.json"
        RESULTS.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
