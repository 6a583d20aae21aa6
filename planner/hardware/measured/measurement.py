"""What ``plan --measure`` has measured on a machine: rates of kernels, links, host and disk.

A curve has the rate at some sizes of the work; between them it is interpolated on logarithmic
scales, beyond them the nearest rate holds. Sizes are operations for products, tokens of a
sequence for attention, elements for exponentials and random numbers, and bytes for all else.
"""

from math import log
from typing import Literal

from planner.base.strict_yaml import PositiveFloat, PositiveInt, Spec


class RatePoint(Spec):
    """The rate that work of one size reaches."""

    size: PositiveFloat
    """Size of the work, in what the curve counts."""
    per_s: PositiveFloat
    """Rate per second, in what the curve says."""


Curve = tuple[RatePoint, ...]
"""Points by ascending size."""


def rate_at(curve: Curve, size: float) -> float:
    """Return the rate of work of this size, per second.

    >>> points = RatePoint(size=1e3, per_s=10.0), RatePoint(size=1e5, per_s=1000.0)
    >>> [round(rate_at(points, size)) for size in (1, 1e4, 1e9)]
    [10, 100, 1000]
    """
    low = curve[0]
    if size <= low.size:
        return low.per_s
    for high in curve[1:]:
        if size <= high.size:
            share = log(size / low.size) / log(high.size / low.size)
            return float(low.per_s * (high.per_s / low.per_s) ** share)
        low = high
    return low.per_s


class AttentionRates(Spec):
    """Operations per second of fused attention, as the tape counts them: half of the scores without
    a mask.

    A head is worked on by itself, so that more of them take longer at the same rate; how long a
    sequence is decides the blocks that its kernel takes.
    """

    forward: Curve
    """Rates of the forward pass."""
    backward: Curve
    """Rates of the backward pass."""
    masked_forward: Curve
    """Rates of the forward pass with a mask."""
    masked_backward: Curve
    """Rates of the backward pass with a mask."""


class WidthRates(Spec):
    """Rates of kernels whose operands have one width, 16 bit or fp32."""

    wide: Curve
    """Operations per second of products whose three dimensions are large."""
    thin: Curve
    """Bytes per second of products with an adapter's rank as a dimension."""
    wide_gradient: Curve
    """Operations per second of the gradients of wide products' weights."""
    thin_gradient: Curve
    """Bytes per second of the gradients of an adapter's weights."""
    attention: AttentionRates
    """Rates of fused attention."""


class KernelRates(Spec):
    """Rates that the kernels of one rank reach."""

    bits_16: WidthRates
    """Rates of kernels with 16-bit operands."""
    bits_32: WidthRates
    """Rates of kernels with fp32 operands."""
    moved: Curve
    """Bytes per second of kernels that only move data."""
    fresh_bytes_per_s: PositiveFloat | None = None
    """Bytes of new memory per second that the kernel maps and clears; None on a card, whose memory
    PyTorch keeps."""
    random: Curve
    """Elements of dropout's mask per second."""
    exponential: Curve
    """Elements of a softmax in fp32 per second."""
    updated: Curve
    """Bytes per second of the optimizer's update."""
    dequantized: Curve = ()
    """Bytes per second of 4-bit weights unpacked; empty without bitsandbytes."""
    host_s_per_kernel: PositiveFloat
    """Seconds that Python, PEFT and PyTorch need to launch one kernel of a training step."""


class LinkRates(Spec):
    """Bytes of a whole tensor per second of collectives over so many devices of one node."""

    ranks: PositiveInt
    """Number of devices."""
    all_reduce: Curve
    """Rate of an all-reduce."""
    all_gather: Curve
    """Rate of an all-gather."""
    reduce: Curve = ()
    """Rate of a reduce-scatter; empty where the backend has none."""


class HostRates(Spec):
    """Rates of the host and of its disk."""

    memory_bytes_per_s: PositiveFloat
    """Bytes that all cores together read and write per second."""
    adam_s_per_parameter: PositiveFloat
    """Seconds of an update of AdamW in fp32 by all cores together."""
    to_device_bytes_per_s: PositiveFloat | None = None
    """Rate from the host's pinned memory to a card; None on the CPU."""
    to_host_bytes_per_s: PositiveFloat | None = None
    """Rate from a card to the host's pinned memory; None on the CPU."""
    disk_bytes_per_s: PositiveFloat | None = None
    """Rate at which a file reaches the disk; None where no file could be written."""


class Measurement(Spec):
    """Rates of one kind of device with one version of PyTorch, measured on one day."""

    schema_version: Literal[3] = 3
    """Version of this format."""
    measured_on: str
    """Day of the measurement, as 2026-11-29."""
    device: Literal["cuda", "cpu"]
    """Kind of device."""
    device_name: str
    """Name as NVML or the processor gives it."""
    ranks: PositiveInt
    """Number of ranks that worked at once; on the CPU they share its cores."""
    cores: PositiveInt
    """Cores of the host that the process could use."""
    torch: str
    """Version of PyTorch."""
    kernels: KernelRates
    """Rates of the device's kernels."""
    host: HostRates
    """Rates of its host."""
    links: LinkRates | None = None
    """Rates between the devices; None for a single one."""
