"""What a device loses beside the tensors: context, communicators, the allocator's cache."""

from dataclasses import dataclass
from functools import cache

from planner.gpu import Cluster
from planner.memory import Footprint
from planner.presets import ROOT
from planner.spec import Spec, read_spec
from planner.units import MIB


class Ratio(Spec):
    low: float
    expected: float
    high: float
    readings: int
    source: str


class Size(Spec):
    low: int
    expected: int
    high: int
    readings: int
    source: str


class Overheads(Spec):
    reserved_over_allocated: Ratio
    nccl_mib: Size


@cache
def overheads() -> Overheads:
    return read_spec(Overheads, ROOT / "overheads.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """One device's memory as the driver counts it, with the range of published readings."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int
    low_bytes: int
    high_bytes: int

    @property
    def device_used_bytes(self) -> int:
        return self.peak_reserved_bytes + self.context_bytes


def device_memory(footprint: Footprint, cluster: Cluster) -> DeviceMemory:
    """Reserved memory and context around the tensors' peak; on the CPU only the process."""
    peak = footprint.peak_allocated_bytes
    context = cluster.accelerator.context_bytes
    if cluster.device == "cpu":
        return DeviceMemory(
            peak_allocated_bytes=peak,
            peak_reserved_bytes=peak,
            context_bytes=context,
            low_bytes=peak + context,
            high_bytes=peak + context,
        )
    ratio = overheads().reserved_over_allocated
    nccl = overheads().nccl_mib
    several = cluster.world_size > 1
    return DeviceMemory(
        peak_allocated_bytes=peak,
        peak_reserved_bytes=round(peak * ratio.expected),
        context_bytes=context + (nccl.expected * MIB if several else 0),
        low_bytes=round(peak * ratio.low) + context + (nccl.low * MIB if several else 0),
        high_bytes=round(peak * ratio.high) + context + (nccl.high * MIB if several else 0),
    )
