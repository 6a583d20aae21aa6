"""Device memory beyond the predicted tensors: what published runs measured above them, holes in the
allocator's memory, the driver's context, communicators."""

from functools import cache

from msgspec import Struct

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.base.units import MIB
from planner.hardware.cluster import PROCESS_BYTES, Cluster
from planner.hardware.measured.own_runs import memory_ratios
from planner.memory.footprint import Footprint
from planner.plan.vocabulary import Method
from planner.workload.measured_ratios import narrowed, peak_ratio


class Ratio(Spec):
    """A measured ratio with its range."""

    low: float
    expected: float
    high: float
    readings: int
    source: str


class Size(Spec):
    """A measured size in MiB with its range."""

    low: int
    expected: int
    high: int
    readings: int
    source: str


class Overheads(Spec):
    """The content of presets/overheads.yaml."""

    reserved_over_allocated: Ratio
    nccl_mib: Size
    resident_over_allocated: Ratio
    """On the CPU, where glibc keeps what tensors have left."""
    libraries_mib: Size
    """Resident memory that libraries of a CPU run add to the process once it trains."""


@cache
def overheads() -> Overheads:
    """Return the measured overheads of a process on a device."""
    return read_spec(Overheads, ROOT / "overheads.yaml")


class DeviceMemory(Struct, frozen=True):
    """The range of what a run needs of one device, by published measurements."""

    peak_allocated_bytes: int
    """Bytes of tensors at their peak."""
    context_bytes: int
    """Bytes of the driver's context and of communicators; where the device has the host's memory,
    what the host holds beside the tensors, too; on the CPU what the process does."""
    low_bytes: int
    high_bytes: int
    holes_beyond_ratio_bytes: int = 0
    """Bytes of the high end for holes in the allocator's pool, beyond the published ratio."""


def resident_bytes(peak_allocated_bytes: int) -> tuple[int, int, int]:
    """Return the least, the expected and the most resident bytes of a process whose tensors take so
    many on the CPU: what glibc keeps of freed blocks is the range."""
    ratio, libraries = overheads().resident_over_allocated, overheads().libraries_mib
    low, expected, high = (
        PROCESS_BYTES + size * MIB + round(share * peak_allocated_bytes)
        for size, share in (
            (libraries.low, ratio.low),
            (libraries.expected, ratio.expected),
            (libraries.high, ratio.high),
        )
    )
    return low, expected, high


def device_memory(
    footprint: Footprint,
    cluster: Cluster,
    method: Method,
    *,
    host_bytes: int = 0,
    communicators: int = 1,
) -> DeviceMemory:
    """Return the device memory around the tensors' peak; on the CPU that of the process.

    ``host_bytes`` are those of the host's that come out of the device's memory at its peak. What a
    second communicator takes of a device nobody has published: the high end counts the most that
    was read for each.

    The published ratio of reserved over allocated memory is that of full cards. With small models
    and large vocabularies a pass may leave more free than that, which is the high end then.
    """
    peak = footprint.peak_allocated_bytes
    if cluster.device == "cpu":
        low, expected, high = resident_bytes(peak)
        return DeviceMemory(
            peak_allocated_bytes=peak,
            context_bytes=expected - peak,
            low_bytes=low,
            high_bytes=high,
        )
    context = cluster.accelerator.context_bytes + host_bytes
    ratio = overheads().reserved_over_allocated
    error = narrowed(peak_ratio(method), memory_ratios(cluster, method=method))
    nccl = overheads().nccl_mib
    sizes = (nccl.low, nccl.expected, communicators * nccl.high)
    if cluster.world_size == 1:
        sizes = (0, 0, 0)
    low, expected, high = (context + size * MIB for size in sizes)
    filled = round(peak * error.high * ratio.high)
    with_holes = round(footprint.pool_bytes * error.high)
    return DeviceMemory(
        peak_allocated_bytes=peak,
        context_bytes=expected,
        low_bytes=round(peak * error.low * ratio.low) + low,
        high_bytes=max(filled, with_holes) + high,
        holes_beyond_ratio_bytes=max(0, with_holes - filled),
    )
