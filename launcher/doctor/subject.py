"""What the checks look at; read once, before the first of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.doctor.finding import Finding
from planner.hardware.machine import selection
from planner.hardware.machine_readings import DeviceReading, Machine

NO_DRIVER = "no NVIDIA driver"
"""Part of what the planner says if there is none (planner/hardware/nvml.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFacts:
    """PyTorch as it is in a process that has imported it."""

    version: str
    cuda: str | None
    """CUDA version it was built for; None for a build without CUDA."""
    available: bool
    """Whether it can use CUDA here."""
    num_devices: int
    architectures: tuple[str, ...]
    """Architectures that its kernels were compiled for: ``sm_90``, ``compute_90``."""
    nccl: str | None
    """Version of NCCL; None if CUDA is not available."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The machine under examination."""

    machine: Machine
    environ: Mapping[str, str]
    directory: Path
    """Folder that a run would be written to."""
    torch: TorchFacts | None
    """None if PyTorch cannot be imported."""
    probed: Mapping[str, Finding] = field(default_factory=dict)
    """Findings of the probes, by the name of their check."""

    @property
    def without_driver(self) -> bool:
        """Whether no NVIDIA driver is installed."""
        return NO_DRIVER in (self.machine.nvml.problem or "")

    @property
    def gpus_unknown(self) -> bool:
        """Whether a driver is installed and does not answer."""
        return self.machine.nvml.problem is not None and not self.without_driver

    @property
    def gpus(self) -> tuple[DeviceReading, ...]:
        """GPUs that CUDA shows to a process here."""
        return selection(self.machine).shown
