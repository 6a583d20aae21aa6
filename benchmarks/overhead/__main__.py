"""``launch`` beside a script written by hand, in turns: python -m benchmarks.overhead [--write]

Both train SmolLM2-135M on samples of one length, so a step has as many tokens on either side; the
script gets the environment that the launcher gives its ranks. Tokens per second are those of the
median step after the first; the ratio of a pair is taken between neighbours in time.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from benchmarks.measure.environment import ROOT, environment_of
from benchmarks.measure.matrix import Row
from benchmarks.measure.planning import one_device, plan_row
from launcher.base_model.find_checkpoint import local_checkpoint
from launcher.run.rank_commands import num_cores, planned_environment, rank_environment
from launcher.run.read_plan import plan_text
from planner.hardware.cluster import Cluster
from planner.plan.schema import Plan
from planner.plan.vocabulary import Method

RESULTS = ROOT / "benchmarks" / "results"
METHODS: tuple[Method, ...] = ("lora", "full")
MODEL = "smollm2-135m"
LENGTH = 128
MICRO_BATCH = 2
SAMPLES = 64
ANSWER = (
    "A lighthouse keeper counts the ships that pass by night and writes them into a book. " * 16
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One run: seconds of the steps after the first, and the loss of all."""

    step_times_s: Sequence[float]
    losses: Sequence[float]

    @property
    def tokens_per_second(self) -> float:
        return MICRO_BATCH * LENGTH / statistics.median(self.step_times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--write", action="store_true", help="a file in benchmarks/results")
    options = parser.parse_args()
    cluster = one_device(options.device, os.environ, listing=False)
    measured = {}
    for method in options.method or METHODS:
        pairs = [
            one_pair(overhead_plan(method, cluster, steps=options.steps), number)
            for number in range(options.pairs)
        ]
        measured[method] = summary(pairs)
        print(line(method, measured[method]), flush=True)
    if options.write:
        write(measured, cluster, steps=options.steps)


def one_pair(plan: Plan, number: int) -> dict[str, Side]:
    """Run both sides; the one that was first in the previous pair is last, so that neither is
    always the warm one."""
    sides = {"launch": run_launch, "by hand": run_by_hand}
    order = list(sides) if number % 2 == 0 else list(reversed(sides))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for side in order:
            found[side] = sides[side](plan, Path(folder))
            print(
                f"  {plan.method} {side}: {found[side].tokens_per_second:,.0f} tokens/s", flush=True
            )
    return found


def overhead_plan(method: Method, cluster: Cluster, *, steps: int) -> Plan:
    row = Row(
        model=MODEL,
        num_layers=None,
        method=method,
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=1,
        sequence_length=LENGTH,
        activation_checkpointing=False,
        loss="fused" if cluster.device == "cuda" else "standard",
        attention="sdpa",
        optimizer="adamw_torch_fused",
        strategy="single",
        offload="none",
    )
    plan = plan_row(row, cluster).plan
    folder = local_checkpoint(plan.model, sys.stderr).folder
    return structs.replace(
        plan,
        model=structs.replace(plan.model, source=str(folder)),
        data=structs.replace(plan.data, source="messages.jsonl"),
        training=structs.replace(plan.training, epochs=None, max_steps=steps),
        output=structs.replace(plan.output, directory="run"),
    )


def write_data(folder: Path) -> None:
    """Write conversations longer than the sequence length, so that every sample fills it, in the
    format of each side."""
    turns = [
        (
            [{"role": "user", "content": f"What does keeper {number} do?"}],
            [{"role": "assistant", "content": ANSWER}],
        )
        for number in range(SAMPLES)
    ]
    write_lines(folder / "messages.jsonl", [{"messages": asked + said} for asked, said in turns])
    write_lines(
        folder / "pairs.jsonl", [{"prompt": asked, "completion": said} for asked, said in turns]
    )


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_launch(plan: Plan, folder: Path) -> Side:
    (folder / "plan.yaml").write_text(plan_text(plan), encoding="utf-8")
    run_process(["-m", "launcher", "plan.yaml"], folder, dict(os.environ))
    text = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(row) for row in text.splitlines()]
    return Side(
        step_times_s=[row["step_time_s"] for row in rows[1:]],
        losses=[row["loss"] for row in rows],
    )


def run_by_hand(plan: Plan, folder: Path) -> Side:
    settings, result = folder / "settings.json", folder / "result.json"
    settings.write_text(json.dumps(settings_by_hand(plan, folder)), encoding="utf-8")
    environment = rank_environment(plan, planned_environment(plan, os.environ))
    run_process(
        ["-m", "benchmarks.overhead.by_hand", str(settings), str(result)], folder, environment
    )
    return Side(**json.loads(result.read_text(encoding="utf-8")))


def settings_by_hand(plan: Plan, folder: Path) -> dict[str, Any]:
    adapter = plan.adapter
    precision = plan.precision.trainable if adapter is None else plan.precision.frozen
    return {
        "model": plan.model.source,
        "dtype": {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[precision],
        "data": str(folder / "pairs.jsonl"),
        "output": str(folder / "by-hand"),
        "on_cpu": plan.hardware.device == "cpu",
        "micro_batch_size": plan.batch.micro_batch_size,
        "sequence_length": plan.batch.sequence_length,
        "steps": plan.training.max_steps,
        "seed": plan.training.seed,
        "optimizer": plan.optimizer.name,
        "learning_rate": plan.optimizer.learning_rate,
        "weight_decay": plan.optimizer.weight_decay,
        "max_grad_norm": plan.optimizer.max_grad_norm,
        "schedule": plan.schedule.kind,
        "warmup": plan.schedule.warmup_ratio,
        "lora": None
        if adapter is None
        else {
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "lora_dropout": adapter.dropout,
            "target_modules": adapter.target_modules,
        },
    }


def run_process(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")


def summary(pairs: Sequence[dict[str, Side]]) -> dict[str, Any]:
    speeds = {side: [round(pair[side].tokens_per_second, 1) for pair in pairs] for side in pairs[0]}
    ratios = [
        pair["launch"].tokens_per_second / pair["by hand"].tokens_per_second for pair in pairs
    ]
    return {
        "tokens_per_second": speeds,
        "median_tokens_per_second": {
            side: statistics.median(each) for side, each in speeds.items()
        },
        "ratios": [round(ratio, 4) for ratio in ratios],
        "ratio_of_medians": round(
            statistics.median(speeds["launch"]) / statistics.median(speeds["by hand"]), 4
        ),
        "median_ratio": round(statistics.median(ratios), 4),
        "losses_of_the_first_pair": {
            side: [round(loss, 4) for loss in pairs[0][side].losses] for side in pairs[0]
        },
    }


def line(method: str, found: dict[str, Any]) -> str:
    medians = found["median_tokens_per_second"]
    return (
        f"{method}: launch {medians['launch']:,.0f} tokens/s, by hand {medians['by hand']:,.0f}; "
        f"median ratio of {len(found['ratios'])} pairs {found['median_ratio']:.3f}"
    )


def write(measured: dict[str, Any], cluster: Cluster, *, steps: int) -> None:
    document = {
        "run": {
            "benchmark": "overhead",
            "model": MODEL,
            "micro_batch_size": MICRO_BATCH,
            "sequence_length": LENGTH,
            "steps": steps,
            "pairs": {method: len(found["ratios"]) for method, found in measured.items()},
        },
        "measured": measured,
        "environment": environment_of(cluster)
        | {"cores": num_cores(), "load_average": list(os.getloadavg())},
    }
    path = RESULTS / f"overhead--{time.strftime('%Y-%m-%d')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
