"""One layout, run in processes of its own by as many ranks as it has.

python -m benchmarks.regret.child PLAN RESULT --steps N

Every micro-batch and every update is a real one, with random weights and tokens. A step is the
median micro-batch, as many times as the plan has, and the median update. What other programs took
of the processor meanwhile is measured, too.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist

from launcher.rehearsal.engine import engine_of_rank
from launcher.rehearsal.meter import STEP_PHASES, CudaCounters, Meter
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.step import rehearse_step
from launcher.run.end_with_parent import end_with_parent
from launcher.training.model_building import pin_attention_backends
from launcher.training.process_group import join_process_group
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


class NoCounters:
    """Counters of nothing: the clock alone is read."""

    def start(self) -> None:
        pass

    def read(self) -> dict[str, int]:
        return {}


class Processor(NamedTuple):
    """The clock, and the seconds that cores have worked: for all programs, and for this one."""

    clock_s: float
    all_s: float
    own_s: float


def processor_now() -> Processor:
    """Return the three counters. read: proc_stat(5), of whose times two are idle ones."""
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    user, nice, system, _idle, _waiting, *interrupts = map(int, first.split()[1:9])
    ticks = user + nice + system + sum(interrupts)
    return Processor(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


class SharedProcessorMeter(Meter):
    """A meter that also reads the processor, from the second micro-batch to the end of the last."""

    began: Processor
    ended: Processor

    @contextmanager
    def phase(self, name: str | None) -> Iterator[None]:
        """Read the processor around the phases of a step."""
        if name == "forward" and len(self.times_s.get(name, [])) == 1:
            self.began = processor_now()
        with super().phase(name):
            yield
        if name in STEP_PHASES:
            self.ended = processor_now()

    @property
    def wall_s(self) -> float:
        """Seconds between the readings."""
        return self.ended.clock_s - self.began.clock_s

    @property
    def all_s(self) -> float:
        """Seconds that cores worked for all programs."""
        return self.ended.all_s - self.began.all_s

    @property
    def own_s(self) -> float:
        """Seconds that cores worked for this rank."""
        return self.ended.own_s - self.began.own_s


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    plan = read_spec(Plan, options.plan)
    found = measured(plan, steps=options.steps)
    if int(os.environ.get("RANK", "0")) == 0:
        options.result.write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)  # gloo's threads may still wait


def measured(plan: Plan, *, steps: int) -> dict[str, float]:
    """Return the seconds of a step, of the slowest rank, and the share of the cores that other
    programs used; the first micro-batch does not count."""
    device = torch.device("cpu")
    if plan.hardware.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if plan.parallel.world_size > 1:
        join_process_group(plan)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    pin_attention_backends()
    meter = SharedProcessorMeter(NoCounters() if device.type == "cpu" else CudaCounters(device))
    with quiet_libraries():
        rehearse_step(plan, device, meter, steps=steps + 1, make_engine=engine_of_rank(plan))
    times = {name: median(meter.times_s[name][1:]) for name in ("forward", "backward")}
    update = median(meter.times_s["optimizer_step"][1:])
    repeats = plan.batch.gradient_accumulation_steps
    step_s = _over_ranks(repeats * sum(times.values()) + update, dist.ReduceOp.MAX, device)
    own_s = _over_ranks(meter.own_s, dist.ReduceOp.SUM, device)
    cores = len(os.sched_getaffinity(0))
    return {
        "step_s": step_s,
        "others_share": max(0.0, meter.all_s - own_s) / (meter.wall_s * cores),
    }


def _over_ranks(seconds: float, reduction: dist.ReduceOp.RedOpType, device: torch.device) -> float:
    if not dist.is_initialized():
        return seconds
    reduced = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(reduced, reduction)
    return reduced.item()


if __name__ == "__main__":
    main()
