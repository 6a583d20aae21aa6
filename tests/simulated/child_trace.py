"""Every event of PyTorch's allocator while a plan is rehearsed on the first simulated card.

python child_trace.py PLAN: a line of JSON with the events, as [key, bytes, stream] for a request
and [key] for its end, and what was reserved after each.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from launcher.rehearsal.engine import plain_engine
from launcher.rehearsal.meter import CudaCounters, Meter
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.step import rehearse_step
from launcher.run.read_plan import read_plan
from launcher.training.model_building import pin_attention_backends

MOST_EVENTS = 1_000_000
GROWS = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}


def traced(plan_file: Path) -> list[dict[str, Any]]:
    """The allocator's own record of two steps."""
    pin_attention_backends()
    torch.cuda.memory._record_memory_history(max_entries=MOST_EVENTS, stacks="python", context=None)
    device = torch.device("cuda", 0)
    with quiet_libraries():
        plan, meter = read_plan(plan_file), Meter(CudaCounters(device))
        rehearse_step(plan, device, meter, steps=2, make_engine=plain_engine)
    events: list[dict[str, Any]] = torch.cuda.memory._snapshot()["device_traces"][0]
    assert len(events) < MOST_EVENTS
    return events


def as_requests(trace: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as requests and their ends, each with the bytes that are reserved after it."""
    events: list[list[int]] = []
    reserved: list[int] = []
    held: dict[int, int] = {}
    total = 0
    for entry in trace:
        action, address = entry["action"], entry["addr"]
        total += GROWS.get(action, 0) * entry["size"]
        if action == "alloc":
            held[address] = len(events)
            events.append([len(events), entry["size"], entry["stream"]])
        elif action == "free_completed":
            events.append([held.pop(address)])
        else:
            continue
        reserved.append(total)
    return {"events": events, "reserved": reserved}


if __name__ == "__main__":
    print(json.dumps(as_requests(traced(Path(sys.argv[1])))))
