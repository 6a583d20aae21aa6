"""What the report and the list of measurements say of measured rates."""

from planner.base.phrases import Phrase
from planner.hardware.cluster import Cluster
from planner.hardware.measured.measurement import Measurement


def measured_words(measured: Measurement) -> dict[str, str]:
    """Return the largest rates of a measurement, by what reaches them."""
    kernels, links = measured.kernels, measured.links
    words = {
        "16-bit_products": f"{kernels.bits_16.wide[-1].per_s / 1e12:.3g} TFLOP/s",
        "fp32_products": f"{kernels.bits_32.wide[-1].per_s / 1e12:.3g} TFLOP/s",
        "memory": f"{kernels.moved[-1].per_s / 1e9:.3g} GB/s",
        "launch": f"{kernels.host_s_per_kernel * 1e6:.3g} us",
        "host_memory": f"{measured.host.memory_bytes_per_s / 1e9:.3g} GB/s",
    }
    if links is not None:
        words["all-reduce"] = f"{links.all_reduce[-1].per_s / 1e9:.3g} GB/s"
    disk = measured.host.disk_bytes_per_s
    if disk is not None:
        words["disk"] = f"{disk / 1e9:.3g} GB/s"
    return words


def source_words(cluster: Cluster) -> str | None:
    """Return where a cluster's rates come from, if they were measured."""
    measured = cluster.accelerator.measured
    if measured is None:
        return None
    saved = None if cluster.machine is None else cluster.machine.saved_on
    where = Phrase("here") if saved is None else Phrase("on that machine")
    return Phrase(
        "rates measured {where} on {day} with torch {torch}",
        where=where,
        day=measured.measured_on,
        torch=measured.torch,
    )
