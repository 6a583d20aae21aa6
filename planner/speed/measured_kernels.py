"""Seconds of a kernel at rates that were measured on such a device, by the size of its work."""

from planner.base.units import FP32_BYTES, MIB
from planner.hardware.measured.measurement import KernelRates, WidthRates, rate_at
from planner.tape.counting_tape import Kernel

LARGEST_REUSED = 32 * MIB
"""Bytes of the largest block that glibc reuses; read: malloc(3) and malloc.c at 2.36,
DEFAULT_MMAP_THRESHOLD_MAX: a larger one is mapped from the kernel, and given back when it is
freed."""
MOVES_PER_ELEMENT = 2
"""Times that a kernel with one input moves the width of an element: it is read and written."""


def measured_seconds(kernel: Kernel, rates: KernelRates) -> float:
    """Return the seconds of a kernel, and of the new memory for what it makes.

    A product takes as long as its operations at the rate of wide products, or as its bytes at the
    rate of thin ones, whichever is longer.
    """
    return _busy_s(kernel, rates) + _fresh_s(kernel, rates)


def _fresh_s(kernel: Kernel, rates: KernelRates) -> float:
    """Return seconds in which the kernel maps and clears pages, which a process on the CPU is given
    anew where a tensor is large, or where its memory grows: by what backward needs."""
    if rates.fresh_bytes_per_s is None or not (kernel.kept or kernel.made > LARGEST_REUSED):
        return 0.0
    return kernel.made / rates.fresh_bytes_per_s


def _busy_s(kernel: Kernel, rates: KernelRates) -> float:
    if not kernel.flops:
        return _without_product(kernel, rates)
    of_width = rates.bits_32 if kernel.width >= FP32_BYTES else rates.bits_16
    if kernel.kind == "product":
        return max(
            kernel.flops / rate_at(of_width.wide, kernel.flops),
            kernel.num_bytes / rate_at(of_width.thin, kernel.num_bytes),
        )
    return _attention_s(kernel, of_width)


def _attention_s(kernel: Kernel, rates: WidthRates) -> float:
    backward, masked = kernel.phase == "backward", kernel.kind == "masked attention"
    known = rates.attention
    if masked:
        curve = known.masked_backward if backward else known.masked_forward
    else:
        curve = known.backward if backward else known.forward
    return kernel.flops / rate_at(curve, kernel.flops)


def _without_product(kernel: Kernel, rates: KernelRates) -> float:
    size = kernel.num_bytes
    if not size:
        return 0.0
    moved_s = size / rate_at(rates.moved, size)
    if kernel.kind == "random":
        return size / rate_at(rates.random, size)
    if kernel.kind == "dequantize" and rates.dequantized:
        return size / rate_at(rates.dequantized, size)
    if kernel.kind == "exponential":
        elements = size / MOVES_PER_ELEMENT / kernel.width
        return max(moved_s, elements / rate_at(rates.exponential, elements))
    return moved_s
