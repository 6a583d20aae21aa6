"""What a device needs beside the tensors that are predicted: what published runs had more than
that, the allocator's cache, context, communicators."""

from functools import cache
from typing import NamedTuple

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.base.units import MIB
from planner.hardware.cluster import Cluster
from planner.memory.footprint import Footprint
from planner.plan.vocabulary import Method
from planner.workload.measured_ratios import peak_ratio


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


class DeviceMemory(NamedTuple):
    """One device's memory as the driver counts it, with the range of what was published."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int
    low_bytes: int
    high_bytes: int

    @property
    def device_used_bytes(self) -> int:
        return self.peak_reserved_bytes + self.context_bytes


def device_memory(footprint: Footprint, cluster: Cluster, method: Method) -> DeviceMemory:
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
    ratio, error = overheads().reserved_over_allocated, peak_ratio(method)
    nccl = overheads().nccl_mib
    sizes = (nccl.low, nccl.expected, nccl.high) if cluster.world_size > 1 else (0, 0, 0)
    low, expected, high = (context + size * MIB for size in sizes)
    return DeviceMemory(
        peak_allocated_bytes=peak,
        peak_reserved_bytes=round(peak * error.expected * ratio.expected),
        context_bytes=expected,
        low_bytes=round(peak * error.low * ratio.low) + low,
        high_bytes=round(peak * error.high * ratio.high) + high,
    )
