"""What the checks look at: read once, before the first of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.doctor.finding import Finding
from planner.hardware.machine import selection
from planner.hardware.machine_readings import DeviceReading, Machine

NO_DRIVER = "no NVIDIA driver"
"""In what the planner says where there is none (planner/hardware/nvml.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFacts:
    """PyTorch as a process of its own imported it."""

    version: str
    cuda: str | None
    """The CUDA version it was built for; nothing in a build for the CPU."""
    available: bool
    num_devices: int
    architectures: tuple[str, ...]
    """What its kernels were compiled for: ``sm_90``, ``compute_90``."""
    nccl: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    machine: Machine
    environ: Mapping[str, str]
    directory: Path
    """Where a run would be written."""
    torch: TorchFacts | None
    """Nothing where it cannot be imported."""
    tried: Mapping[str, Finding] = field(default_factory=dict)
    """What processes of their own have found, by check."""

    @property
    def without_driver(self) -> bool:
        return NO_DRIVER in (self.machine.nvml.problem or "")

    @property
    def gpus_unknown(self) -> bool:
        """A driver is here and does not answer."""
        return self.machine.nvml.problem is not None and not self.without_driver

    @property
    def gpus(self) -> tuple[DeviceReading, ...]:
        """Those that CUDA shows to a process here."""
        return selection(self.machine).shown
