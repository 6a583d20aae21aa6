"""SmolLM2-135M trained on two nodes: python -m benchmarks.nodes [--write] [SCENARIO ...]

Two network namespaces joined by a cable, torch elastic over gloo, both on this machine's cores.
Loss curves are compared with one process at the same global batch; a node is killed and a cable
unplugged during a run; the cable is slowed down. Needs root, iproute2 and the training stack.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from benchmarks.measure.environment import ROOT, environment_of
from benchmarks.nodes.launches import Launch, losses, metrics, seconds_until, write_plan
from benchmarks.nodes.namespaces import Namespace, two_nodes, why_not
from benchmarks.nodes.plans import MODEL, RANKS, plan_of_one, under, write_data
from launcher.nodes.agreement import assumed_bytes_per_s
from launcher.nodes.meeting_result import read_result
from launcher.run.rank_commands import num_cores
from planner.hardware.detect import read_cpu
from planner.plan.schema import Plan
from planner.plan.vocabulary import Strategy

RESULTS = ROOT / "benchmarks" / "results"
STEPS = 8
KILLED_BEHIND = 3
NETWORK = "10gbe"
SLOW_BYTES_PER_S = 12_500_000
STRATEGIES: tuple[Strategy, ...] = ("ddp", "zero2", "zero3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], default=[])
    parser.add_argument("--write", action="store_true", help="a file in benchmarks/results")
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    measured = {}
    for name in options.scenarios or SCENARIOS:
        began = time.monotonic()
        measured[name] = SCENARIOS[name]()
        print(
            f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(measured[name])}", flush=True
        )
    if options.write:
        write(measured)


def curves() -> dict[str, Any]:
    """Compare the loss curve of every strategy over two nodes with one process whose weights have
    the same width: DeepSpeed's are in 16 bit."""
    plan = plan_of_one(steps=STEPS)
    alone = {"plain": run_alone(plan), "zero2": run_alone(under(plan, "zero2", nodes=1))}
    found: dict[str, Any] = {"one process": alone}
    for strategy in STRATEGIES:
        curve, other = undisturbed(strategy), "plain" if strategy == "ddp" else "zero2"
        found[strategy] = {
            "losses": curve,
            "beside": other,
            "farthest_relative": farthest(curve, alone[other]),
        }
    return found


def run_alone(plan: Plan) -> list[float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(plan, folder)
        require(Launch(folder, None, ()), 0)
        return losses(folder)


def undisturbed(strategy: Strategy) -> list[float]:
    with tempfile.TemporaryDirectory() as name, two_nodes() as nodes:
        folder = Path(name)
        prepare(under(plan_of_one(steps=STEPS), strategy), folder)
        for launch in begin(folder, nodes):
            require(launch, 0)
        return losses(folder)


def lost(end_node: Callable[[Namespace], None], *, leader: int, ends: int) -> dict[str, Any]:
    """Measure the seconds from the loss of a node until each other node names it, and until it
    ends."""
    with tempfile.TemporaryDirectory() as name, two_nodes() as nodes:
        folder = Path(name)
        prepare(under(plan_of_one(steps=200), "ddp"), folder)
        launches = begin(folder, nodes, leader=leader)
        seconds_until(lambda: len(metrics(folder)) >= KILLED_BEHIND)
        end_node(nodes[ends])
        survivor = launches[1 - ends]
        word = f"({nodes[ends].address}) is lost"
        named_s = seconds_until(lambda: word in survivor.said, limit_s=120)
        ended_s = named_s + seconds_until(lambda: survivor.process.poll() is not None)
        said = [line for line in survivor.said.splitlines() if "is lost" in line]
        return {"named_s": round(named_s, 1), "ended_s": round(ended_s, 1), "said": said}


def restarted(strategy: Strategy, *, leader: int, ends: int) -> dict[str, Any]:
    """Kill a node during a run, and run the same command there again."""
    with tempfile.TemporaryDirectory() as name, two_nodes() as nodes:
        folder = Path(name)
        prepare(under(plan_of_one(steps=STEPS), strategy), folder)
        options = ("--max-restarts", "1")
        launches = begin(folder, nodes, *options, leader=leader)
        seconds_until(lambda: len(metrics(folder)) >= KILLED_BEHIND)
        nodes[ends].kill()
        launches[ends].ended()
        word = f"({nodes[ends].address}) is lost"
        survivor = launches[1 - ends]
        named_s = seconds_until(lambda: word in survivor.said, limit_s=120)
        again = Launch(folder, nodes[ends], endpoint(nodes, leader, options), number=1)
        for launch in (survivor, again):
            require(launch, 0)
        attempts = json.loads((folder / "run" / "attempts.json").read_bytes())
        return {
            "named_s": round(named_s, 1),
            "from_steps": [each["from_step"] for each in attempts],
            "losses": losses(folder),
            "undisturbed": undisturbed(strategy),
        }


def slow_cable(bytes_per_s: int | None) -> dict[str, Any]:
    """Record what the first meeting of the nodes measures and says over a slow cable."""
    with tempfile.TemporaryDirectory() as name, two_nodes() as nodes:
        folder = Path(name)
        prepare(under(plan_of_one(steps=1), "ddp", network=NETWORK), folder)
        if bytes_per_s is not None:
            nodes[1].limit_bytes_per_s(bytes_per_s)
        launches = begin(folder, nodes)
        found = folder / "run" / ".nodes" / "meeting.json"
        seconds_until(found.is_file)
        meeting = read_result(found)
        time.sleep(1)
        notes = [line for line in launches[0].said.splitlines() if line.startswith("note: ")]
        return {
            "limit_bytes_per_s": bytes_per_s,
            "planned_bytes_per_s": assumed_bytes_per_s(NETWORK, 1),
            "all_reduce_bytes_per_s": round(meeting.all_reduce_bytes_per_s),
            "links": [[at.sender, at.receiver, round(at.bytes_per_s)] for at in meeting.links],
            "notes": notes,
        }


def prepare(plan: Plan, folder: Path) -> None:
    write_plan(plan, folder)
    write_data(folder / "data.jsonl")


def begin(
    folder: Path, nodes: tuple[Namespace, Namespace], *options: str, leader: int = 0
) -> list[Launch]:
    return [Launch(folder, node, endpoint(nodes, leader, options)) for node in nodes]


def endpoint(
    nodes: tuple[Namespace, Namespace], leader: int, options: tuple[str, ...]
) -> tuple[str, ...]:
    return ("--rdzv-endpoint", nodes[leader].address, *options)


def require(launch: Launch, code: int) -> None:
    if launch.ended() != code:
        raise SystemExit(f"a launch ended with {launch.process.returncode}:\n{launch.said[-3000:]}")


def farthest(curve: list[float], other: list[float]) -> float:
    pairs = zip(curve, other, strict=True)
    return max(abs(one - two) / two for one, two in pairs)


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "curves": curves,
    "killed": lambda: lost(Namespace.kill, leader=0, ends=1),
    "leader killed": lambda: lost(Namespace.kill, leader=0, ends=0),
    "cable out": lambda: lost(Namespace.cut, leader=0, ends=1),
    "restarted": lambda: restarted("ddp", leader=0, ends=1),
    "rank 0 restarted": lambda: restarted("zero3", leader=1, ends=0),
    "slow cable": lambda: slow_cable(SLOW_BYTES_PER_S),
    "whole cable": lambda: slow_cable(None),
}


def write(measured: dict[str, Any]) -> None:
    """Write the results; a scenario that was run again replaces its entry in the file of the
    day."""
    path = RESULTS / f"nodes--{MODEL}--{time.strftime('%Y-%m-%d')}.json"
    before = json.loads(path.read_bytes())["measured"] if path.is_file() else {}
    batch = to_builtins(under(plan_of_one(steps=STEPS), "ddp").batch)
    document = {
        "run": {
            "benchmark": "nodes",
            "model": MODEL,
            "method": "full",
            "batch": batch,
            "nodes": RANKS,
            "steps": STEPS,
        },
        "measured": before | measured,
        "environment": environment_of(read_cpu())
        | {"cores": num_cores(), "load_average": list(os.getloadavg())},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
