"""Seconds of a kernel at rates that were measured on such a device, by the size of its work."""

from collections.abc import Iterable

from planner.base.units import FP32_BYTES, MIB
from planner.hardware.measured.measurement import KernelRates, WidthRates, rate_at
from planner.tape.counting_tape import Kernel
from planner.tape.tape import MATRIX_PRODUCTS

LARGEST_REUSED = 32 * MIB
"""Bytes of the largest block that glibc may reuse; read: malloc(3) and malloc.c at 2.36,
DEFAULT_MMAP_THRESHOLD_MAX."""
MOVES_PER_ELEMENT = 2
"""Times that a kernel with one input moves the width of an element: it is read and written."""


def mapped_from_bytes(made: Iterable[int]) -> int:
    """Return the bytes of the smallest block that a process on the CPU maps from the kernel anew,
    and gives back when it is freed, where its kernels make blocks of the given bytes.

    read: malloc.c at 2.36, sysmalloc and free. Blocks from a threshold on are mapped. When one is
    freed, the threshold rises to its size, up to ``LARGEST_REUSED``: so the largest block below
    that is mapped each time, and smaller ones are reused.
    """
    return max((size for size in made if size <= LARGEST_REUSED), default=0) or LARGEST_REUSED


def measured_seconds(
    kernel: Kernel, rates: KernelRates, mapped_from: int = LARGEST_REUSED
) -> float:
    """Return the seconds of a kernel, and of the new memory for what it makes.

    A product takes as long as its operations at the rate of wide products, or as its bytes at the
    rate of thin ones, whichever is longer.
    """
    return _busy_s(kernel, rates) + _fresh_s(kernel, rates, mapped_from)


def _fresh_s(kernel: Kernel, rates: KernelRates, mapped_from: int) -> float:
    """Return seconds in which the kernel maps and clears pages, which a process on the CPU is given
    anew where a tensor is large, or where its memory grows: by what backward needs."""
    if rates.fresh_bytes_per_s is None or not (kernel.kept or kernel.made >= mapped_from):
        return 0.0
    return kernel.made / rates.fresh_bytes_per_s


def _busy_s(kernel: Kernel, rates: KernelRates) -> float:
    if not kernel.flops:
        return _without_product(kernel, rates)
    of_width = rates.bits_32 if kernel.width >= FP32_BYTES else rates.bits_16
    if kernel.kind not in MATRIX_PRODUCTS:
        return _attention_s(kernel, of_width)
    wide, thin = of_width.wide, of_width.thin
    if kernel.kind == "weight gradient":
        wide, thin = of_width.wide_gradient, of_width.thin_gradient
    return max(
        kernel.flops / rate_at(wide, kernel.flops),
        kernel.num_bytes / rate_at(thin, kernel.num_bytes),
    )


def _attention_s(kernel: Kernel, rates: WidthRates) -> float:
    backward, masked = kernel.phase == "backward", kernel.kind == "masked attention"
    known = rates.attention
    if masked:
        curve = known.masked_backward if backward else known.masked_forward
    else:
        curve = known.backward if backward else known.forward
    return kernel.flops / rate_at(curve, kernel.length)


def _without_product(kernel: Kernel, rates: KernelRates) -> float:
    size = kernel.num_bytes
    if not size:
        return 0.0
    moved_s = size / rate_at(rates.moved, size)
    if kernel.kind == "random":
        elements = size / kernel.width
        return elements / rate_at(rates.random, elements)
    if kernel.kind == "dequantize" and rates.dequantized:
        return size / rate_at(rates.dequantized, size)
    if kernel.kind == "exponential":
        elements = size / MOVES_PER_ELEMENT / kernel.width
        return max(moved_s, elements / rate_at(rates.exponential, elements))
    return moved_s
