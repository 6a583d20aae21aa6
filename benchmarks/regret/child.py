"""One layout, run in processes of its own by as many ranks as it has.

python -m benchmarks.regret.child PLAN RESULT --steps N

Every micro-batch and every update is a real one, with random weights and tokens. A step is the
median micro-batch, as many times as the plan has, and the median update.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from launcher.rehearsal.engine import engine_of_rank
from launcher.rehearsal.meter import CudaCounters, Meter
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.step import rehearse_step
from launcher.run.end_with_parent import end_with_parent
from launcher.training.model_building import pin_attention_backends
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


class NoCounters:
    """Counters of nothing: the clock alone is read."""

    def start(self) -> None:
        pass

    def read(self) -> dict[str, int]:
        return {}


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    plan = read_spec(Plan, options.plan)
    seconds = step_s(plan, steps=options.steps)
    if int(os.environ.get("RANK", "0")) == 0:
        options.result.write_text(json.dumps({"step_s": seconds}), encoding="utf-8")
    os._exit(0)  # gloo's threads may still wait


def step_s(plan: Plan, *, steps: int) -> float:
    """Return the seconds of a step, of the slowest rank; the first micro-batch does not count."""
    device = torch.device("cpu")
    if plan.hardware.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if plan.parallel.world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    pin_attention_backends()
    meter = Meter(NoCounters() if device.type == "cpu" else CudaCounters(device))
    with quiet_libraries():
        rehearse_step(plan, device, meter, steps=steps + 1, make_engine=engine_of_rank(plan))
    times = {name: median(meter.times_s[name][1:]) for name in ("forward", "backward")}
    update = median(meter.times_s["optimizer_step"][1:])
    repeats = plan.batch.gradient_accumulation_steps
    return _slowest(repeats * sum(times.values()) + update, device)


def _slowest(seconds: float, device: torch.device) -> float:
    if not dist.is_initialized():
        return seconds
    longest = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return longest.item()


if __name__ == "__main__":
    main()
