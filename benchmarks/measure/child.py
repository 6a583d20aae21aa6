"""One run in a separate process, so that allocator, context and peaks start at zero.

python -m benchmarks.measure.child PLAN RESULT --steps N [--memory-limit BYTES]
"""

import argparse
import json
import resource
import statistics
import traceback
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.measure.counters import ResidentCounters, driver_used_bytes
from launcher.rehearsal.engine import engine_of
from launcher.rehearsal.meter import Counters, CudaCounters, Meter
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.step import rehearse_step
from launcher.run.end_with_parent import end_with_parent
from launcher.run.process_memory import resident_bytes, status_bytes
from launcher.run.rank_commands import ALLOCATOR_VARIABLES
from launcher.training.environment import describe_environment
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan

Status = Literal["ok", "oom", "failed"]

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Texts of errors that mean out of memory. read: c10/cuda/CUDACachingAllocator.cpp,
c10/core/impl/alloc_cpu.cpp; errno 12; and cuBLAS, which asks the driver for memory directly."""
MAX_REASON = 300
VARIABLES = (*ALLOCATOR_VARIABLES, "OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_")


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--memory-limit", type=int)
    options = parser.parse_args()
    plan = read_spec(Plan, options.plan)
    if options.memory_limit is not None:
        limit_memory(options.memory_limit)
    measured = run_plan(plan, steps=options.steps)
    environment = described_here()
    document = {"measured": measured, "environment": environment}
    options.result.write_text(json.dumps(document), encoding="utf-8")


def limit_memory(num_bytes: int) -> None:
    """Let the system refuse more than ``num_bytes`` of heap and private mappings beyond those of
    now."""
    limit = status_bytes("VmData") + num_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def run_plan(plan: Plan, *, steps: int) -> dict[str, Any]:
    """Return the time and memory of the steps; if they fail, those until then, with a line of
    reason."""
    device = torch.device("cpu")
    if plan.hardware.device == "cuda":
        device = torch.device("cuda", 0)
    resident_before_bytes = resident_bytes()
    meter = Meter(_counters(device))
    status: Status = "ok"
    reason = used_bytes = None
    try:
        with quiet_libraries():
            rehearse_step(plan, device, meter, steps=steps, make_engine=engine_of(plan))
        used_bytes = driver_used_bytes(device)
    except Exception as error:  # whatever goes wrong is the run's result
        traceback.print_exc()
        status, reason = status_of(error), one_line(error)
    return {
        "status": status,
        "reason": reason,
        "failed_in": None if status == "ok" else meter.now,
        **_memory(meter, device),
        "device_used_after_bytes": used_bytes,
        "peak_resident_bytes": status_bytes("VmHWM"),
        "resident_before_bytes": resident_before_bytes,
        "steps": len(meter.step_times_s),
        "step_time_s": _spread(meter.step_times_s),
        "phase_times_s": meter.times_s,
        "phases": meter.phases,
    }


def _counters(device: torch.device) -> Counters:
    return CudaCounters(device) if device.type == "cuda" else ResidentCounters()


def _memory(meter: Meter, device: torch.device) -> dict[str, int | None]:
    """Return the largest reading of each kind; None if no phase ended or the kind is not
    counted."""
    seen = device.type == "cuda" and bool(meter.phases)
    return {
        "peak_allocated_bytes": meter.largest("allocated") if seen else None,
        "peak_reserved_bytes": meter.largest("reserved") if seen else None,
        "device_used_bytes": meter.largest("device_used") if seen else None,
    }


def _spread(times_s: list[float]) -> dict[str, float] | None:
    """Return the spread over the steps after the first, which compiles and fills caches."""
    later = times_s[1:]
    if not later:
        return None
    return {"median": statistics.median(later), "least": min(later), "most": max(later)}


def status_of(error: BaseException) -> Status:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    return "oom" if any(words in str(error) for words in OUT_OF_MEMORY) else "failed"


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_REASON]


def described_here() -> dict[str, Any]:
    """Return the libraries and hardware of this process, without anything that names the
    machine."""
    found = describe_environment()
    kept = {name: value for name, value in found["variables"].items() if name in VARIABLES}
    return {key: found[key] for key in ("python", "packages", "hardware")} | {"variables": kept}


if __name__ == "__main__":
    main()
