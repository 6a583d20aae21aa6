"""What a device's driver will show of a run, which is more than the run needs.

PyTorch's allocator keeps what tensors have left, and gives it back only before it would fail.
"""

from collections.abc import Sequence

from msgspec import Struct

from planner.allocator.expected_reserve import expected_reserved_bytes
from planner.hardware.cluster import Cluster
from planner.hardware.measured.own_runs import memory_ratios
from planner.memory.device_memory import DeviceMemory, overheads
from planner.models.traced_model import TracedSpec
from planner.workload.dtypes import numerics_of
from planner.workload.layout import Layout
from planner.workload.workload import Batch, Workload


class ExpectedMemory(Struct, frozen=True):
    """Memory of one device that is in use when a run has made a few steps."""

    peak_allocated_bytes: int
    """Bytes of tensors at their peak, as predicted."""
    reserved_bytes: int
    """Bytes that the caching allocator has taken from the driver."""
    context_bytes: int
    """Bytes of the driver's context, of communicators, and of what the host holds where it has the
    same memory."""

    @property
    def device_used_bytes(self) -> int:
        """Bytes in use as nvidia-smi shows them."""
        return self.reserved_bytes + self.context_bytes

    @property
    def cached_bytes(self) -> int:
        """Bytes that the allocator keeps beyond the tensors' peak."""
        return self.reserved_bytes - self.peak_allocated_bytes


def expected_memory(
    workload: Workload, layout: Layout, batch: Batch, cluster: Cluster, memory: DeviceMemory
) -> ExpectedMemory:
    """Return what is expected of a device with so much free memory: an allocator gives back what it
    keeps before it fails, so that a run may show more than it needs at most.

    The allocator's replay, which is of this stack, times what runs on this machine had beyond it.
    What published runs had beyond their predictions is in the range of ``memory``: they ran with
    other versions and allocators. Models without formulas are not replayed, and published readings
    take its place.
    """
    peak, context = memory.peak_allocated_bytes, memory.context_bytes
    if cluster.device == "cpu":
        return ExpectedMemory(peak, peak, context)
    reserved = replayed_bytes(workload, layout, batch)
    if reserved is None:
        reserved = round(peak * overheads().reserved_over_allocated.expected)
    own = memory_ratios(cluster, method=workload.method)
    room = max(cluster.accelerator.free_bytes, memory.high_bytes) - context
    expected = min(round(reserved * _usual(own)), room)
    return ExpectedMemory(peak, max(peak, expected), context)


def _usual(ratios: Sequence[float]) -> float:
    """Return the median of what runs here had beyond their predictions; 1 without any."""
    if not ratios:
        return 1.0
    # Slow to import, and few machines have runs.
    from statistics import median

    return median(ratios)


def replayed_bytes(workload: Workload, layout: Layout, batch: Batch) -> int | None:
    """Return the bytes that the allocator's replay reserves; None for a model without
    formulas."""
    if isinstance(workload.model, TracedSpec):
        return None
    return expected_reserved_bytes(workload, layout, batch, numerics_of(workload, layout))
