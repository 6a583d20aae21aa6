"""Takes memory of the first simulated card in all ways, and prints what was counted."""

import json
import subprocess
import sys
from typing import Any

import pynvml
import torch

cuda: Any = torch.cuda
MIB = 1 << 20
GIB = 1 << 30
SEEN_FROM_OUTSIDE = """
import pynvml
pynvml.nvmlInit()
card = pynvml.nvmlDeviceGetHandleByIndex(0)
print(pynvml.nvmlDeviceGetMemoryInfo(card).free, pynvml.nvmlDeviceGetName(card))
"""


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def filled() -> tuple[int, str]:
    """How many GiB fit beside what is there, and what PyTorch says then."""
    held: list[Any] = []
    try:
        while True:
            held.append(torch.empty(GIB, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError as error:
        return len(held), str(error)


def main() -> dict[str, Any]:
    properties = cuda.get_device_properties(0)
    torch.empty(1, device="cuda")
    torch.cuda.empty_cache()
    at_start = free_bytes()
    block = torch.empty(512 * MIB, dtype=torch.uint8, device="cuda")
    taken = at_start - free_bytes()
    outside = subprocess.run(
        [sys.executable, "-c", SEEN_FROM_OUTSIDE], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=1)
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
    del block
    torch.cuda.empty_cache()
    back = free_bytes()
    fit, message = filled()
    pinned = torch.empty(MIB, dtype=torch.uint8, pin_memory=True)
    begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
    with cuda.stream(cuda.Stream()):
        begin.record()
        end.record()
    end.synchronize()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "total_mib": properties.total_memory // MIB,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "bus_matches": properties.pci_bus_id == pynvml.nvmlDeviceGetPciInfo(device).bus,
        "at_start": at_start,
        "taken": taken,
        "seen_outside": int(outside[0]),
        "name_outside": outside[1].strip(),
        "held_by_process": [process.usedGpuMemory for process in processes],
        "back": back,
        "fit_gib": fit,
        "message": message,
        "pinned": pinned.is_pinned(),
        "elapsed_ms": begin.elapsed_time(end),
        "cards": torch.cuda.device_count(),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
