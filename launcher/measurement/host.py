"""Rates of the host: its memory, an optimizer's update there, copies to a card, and the disk."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from launcher.measurement.stopwatch import Stopwatch
from planner.base.units import MIB

ELEMENTS = 2**24
"""Elements of the tensors that are read and updated: 64 MiB in fp32."""
ADAM_PASSES = 7
"""Times that AdamW reads or writes the bytes of a parameter."""
COPIED_BYTES = 64 * MIB
WRITTEN_BYTES = 64 * MIB


def host_rates(device: torch.device, *, until: float, folder: Path) -> dict[str, Any]:
    """Return the host's rates; copies where ``device`` is a card, the disk's where ``folder`` can
    be written."""
    watch = Stopwatch(torch.device("cpu"), until=until)
    a, b = torch.randn(ELEMENTS), torch.randn(ELEMENTS)
    parameter = torch.nn.Parameter(a)
    parameter.grad = b
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.step()
    return {
        "memory_bytes_per_s": 3 * a.nbytes / watch.seconds(lambda: a.detach().add_(b)),
        "adam_s_per_parameter": watch.seconds(optimizer.step) / ELEMENTS,
        **(_copies(device, until) if device.type == "cuda" else {}),
        "disk_bytes_per_s": _disk_bytes_per_s(watch, folder),
    }


def _copies(device: torch.device, until: float) -> dict[str, float]:
    watch = Stopwatch(device, until=until)
    here = torch.empty(COPIED_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    return {
        "to_device_bytes_per_s": COPIED_BYTES / watch.seconds(lambda: there.copy_(here)),
        "to_host_bytes_per_s": COPIED_BYTES / watch.seconds(lambda: here.copy_(there)),
    }


def _disk_bytes_per_s(watch: Stopwatch, folder: Path) -> float | None:
    content = os.urandom(MIB) * (WRITTEN_BYTES // MIB)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:

            def written() -> None:
                file.seek(0)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

            return WRITTEN_BYTES / watch.seconds(written)
    except OSError:
        return None
