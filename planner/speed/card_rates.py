"""Rates that kernels reach on a card: presets/speed.yaml applied to the card's datasheet."""

from functools import cache

from msgspec import Struct, structs

from planner.base.bounded_cache import bounded_cache
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import PositiveFloat, Spec, read_spec
from planner.hardware.cluster import Cluster, GpuSpec
from planner.hardware.measured.measurement import KernelRates
from planner.hardware.network import Links, links_of
from planner.plan.vocabulary import Strategy
from planner.speed.measured_kernels import LARGEST_REUSED, measured_seconds
from planner.tape.counting_tape import Kernel
from planner.tape.tape import MATRIX_PRODUCTS

FLASH_SINCE = 8.0
"""Compute capability that FlashAttention-2 needs."""


class CardClass(Spec):
    """Shares of the datasheet's rates that cards of one class reach; see the head of
    presets/speed.yaml."""

    name: str
    capability: str
    cards: tuple[str, ...] = ()
    geforce: bool = False
    """Whether only GeForce cards take it."""
    product_16: float
    product_32: float
    bandwidth: float
    source: str


class AttentionShare(Spec):
    """Shares of the rate of matrix products that attention kernels reach."""

    flash: float
    memory_efficient: float
    source: str


class HostShare(Spec):
    """Seconds that the host takes per kernel of a step."""

    expected: float
    rows: tuple[str, ...]
    """Published runs that it comes from."""
    source: str


class Hooks(Spec):
    """What hooks of every module take of the host."""

    factor: PositiveFloat
    """Seconds per kernel with them over seconds without."""
    source: str


class SmallestDifference(Spec):
    """Smallest share of a step's time that a choice may rest on."""

    share: PositiveFloat
    source: str


class SpeedData(Spec):
    """The content of presets/speed.yaml."""

    classes: tuple[CardClass, ...]
    attention: AttentionShare
    kernel_gap_s: float
    kernel_gap_source: str
    host_s_per_kernel: HostShare
    zero_3_hooks: Hooks
    adam_on_host_s_per_parameter: float
    adam_on_host_source: str
    told_apart: SmallestDifference


@cache
def speed_data() -> SpeedData:
    """Return the measured shares that all speeds come from."""
    return read_spec(SpeedData, ROOT / "speed.yaml")


def card_class(card: GpuSpec) -> CardClass:
    """Return the class that names the card, else its capability's or the next older one's."""
    classes = speed_data().classes
    named = next((each for each in classes if card.name in each.cards), None)
    if named is not None:
        return named
    is_geforce = "GeForce" in card.device_name
    open_to_it = [each for each in classes if not each.cards and (is_geforce or not each.geforce)]
    capability = float(card.compute_capability)
    older = [each for each in open_to_it if float(each.capability) <= capability]
    return max(older or open_to_it[:1], key=lambda each: (float(each.capability), each.geforce))


class Rates(Struct, frozen=True):
    """What one device and its links reach, in units per second."""

    flops_per_s: float
    """Dense 16-bit rate of the datasheet, which utilisation is a share of."""
    products_16_per_s: float
    products_32_per_s: float
    bandwidth_bytes_per_s: float
    attention_share: float
    """Share of the products' rate that fused attention without a mask reaches in 16 bit."""
    other_attention_share: float
    """Share of the products' rate that all other attention reaches."""
    kernel_gap_s: float
    host_s_per_kernel: float
    adam_on_host_s_per_parameter: float
    links: Links
    measured: KernelRates | None = None
    """Rates by the size of a kernel, where they were measured on such a device."""

    def seconds(self, kernel: Kernel, mapped_from: int = LARGEST_REUSED) -> float:
        """Return seconds of a kernel: the longer of its operations and its bytes.

        On the CPU blocks of at least ``mapped_from`` bytes are new memory.
        """
        if kernel.kind == "host copy":
            return kernel.num_bytes / self.links.host_bytes_per_s
        if self.measured is not None:
            return measured_seconds(kernel, self.measured, mapped_from)
        moved = kernel.num_bytes / self.bandwidth_bytes_per_s
        if not kernel.flops:
            return moved
        wide = kernel.width >= 4
        rate = self.products_32_per_s if wide else self.products_16_per_s
        if kernel.kind not in MATRIX_PRODUCTS:
            plain = kernel.kind == "attention" and not wide
            rate *= self.attention_share if plain else self.other_attention_share
        return max(kernel.flops / rate, moved)


def with_hooks(speed: Rates, strategy: Strategy) -> Rates:
    """Return the rates with a host that also runs the hooks of a strategy: those of ZeRO-3."""
    if strategy != "zero3":
        return speed
    factor = speed_data().zero_3_hooks.factor
    if not speed.host_s_per_kernel:  # the host is the device, and launches between two kernels
        return structs.replace(speed, kernel_gap_s=factor * speed.kernel_gap_s)
    return structs.replace(speed, host_s_per_kernel=factor * speed.host_s_per_kernel)


def rates(cluster: Cluster) -> Rates | None:
    """Return the rates of the cluster's cards and links, measured ones before those of a datasheet;
    None if neither is known."""
    if cluster.accelerator.measured is not None:
        return _measured_rates(cluster)
    card = cluster.accelerator.speed
    if card is None or not card.dense_bf16_flops_per_s or not card.memory_bandwidth_bytes_per_s:
        return None
    return _rates(cluster)


@bounded_cache
def _rates(cluster: Cluster) -> Rates:
    card, data = cluster.accelerator.speed, speed_data()
    assert card is not None
    own, peak = card_class(card), card.dense_bf16_flops_per_s
    bandwidth = card.memory_bandwidth_bytes_per_s
    assert peak is not None
    assert bandwidth is not None
    flash = float(card.compute_capability) >= FLASH_SINCE
    attention = data.attention
    return Rates(
        flops_per_s=peak,
        products_16_per_s=own.product_16 * peak,
        products_32_per_s=own.product_32 * peak,
        bandwidth_bytes_per_s=own.bandwidth * bandwidth,
        attention_share=attention.flash if flash else attention.memory_efficient,
        other_attention_share=attention.memory_efficient,
        kernel_gap_s=data.kernel_gap_s,
        host_s_per_kernel=data.host_s_per_kernel.expected,
        adam_on_host_s_per_parameter=data.adam_on_host_s_per_parameter,
        links=links_of(cluster, card.pcie_bytes_per_s),
    )


@bounded_cache
def _measured_rates(cluster: Cluster) -> Rates:
    """Return the rates of a cluster whose device was measured.

    On the CPU every kernel waits for the one before it and for its own launch; on a card the host
    launches ahead, and the gap between kernels is that of all cards.
    """
    card, measured = cluster.accelerator, cluster.accelerator.measured
    assert measured is not None
    kernels, host = measured.kernels, measured.host
    on_cpu = cluster.device == "cpu"
    wide = kernels.bits_16 if card.supports_bf16 or not on_cpu else kernels.bits_32
    datasheet = None if card.speed is None else card.speed.dense_bf16_flops_per_s
    return Rates(
        flops_per_s=datasheet or wide.wide[-1].per_s,
        products_16_per_s=kernels.bits_16.wide[-1].per_s,
        products_32_per_s=kernels.bits_32.wide[-1].per_s,
        bandwidth_bytes_per_s=kernels.updated[-1].per_s,
        attention_share=1.0,
        other_attention_share=1.0,
        kernel_gap_s=kernels.host_s_per_kernel if on_cpu else speed_data().kernel_gap_s,
        host_s_per_kernel=0.0 if on_cpu else kernels.host_s_per_kernel,
        adam_on_host_s_per_parameter=host.adam_s_per_parameter,
        links=_measured_links(cluster),
        measured=kernels,
    )


def _measured_links(cluster: Cluster) -> Links:
    card, measured = cluster.accelerator, cluster.accelerator.measured
    assert measured is not None
    links = links_of(cluster, None if card.speed is None else card.speed.pcie_bytes_per_s)
    copies = measured.host.to_device_bytes_per_s, measured.host.to_host_bytes_per_s
    known = [rate for rate in copies if rate is not None]
    return structs.replace(links, host_bytes_per_s=min(known)) if known else links


NOMINAL = Rates(
    flops_per_s=100e12,
    products_16_per_s=80e12,
    products_32_per_s=10e12,
    bandwidth_bytes_per_s=1e12,
    attention_share=0.7,
    other_attention_share=0.4,
    kernel_gap_s=1e-6,
    host_s_per_kernel=20e-6,
    adam_on_host_s_per_parameter=1e-9,
    links=Links(
        device_bytes_per_s=20e9,
        slowest_device_bytes_per_s=10e9,
        node_bytes_per_s=12e9,
        host_bytes_per_s=20e9,
        device_step_s=6e-6,
        network_step_s=14e-6,
        start_s=8e-6,
        busy_share=0.02,
    ),
)
"""Round figures of a mid-range card on PCIe 4.0, for ranking where rates are unknown; never
shown."""
