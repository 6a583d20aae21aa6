"""What a plan runs on: one card's facts, and the machine made of them."""

import re
from typing import Literal

from msgspec import Struct

from planner.base.phrases import Phrase
from planner.base.strict_yaml import Spec
from planner.base.units import GIB, MIB
from planner.hardware.machine_readings import Holder, Machine, OwnRun
from planner.hardware.measured.measurement import Measurement

Device = Literal["cuda", "cpu"]
Link = Literal["nvlink", "pcie", "none"]

PCIE_LANE_BYTES_PER_S = {
    1: 250_000_000,
    2: 500_000_000,
    3: 8_000_000_000 * 128 // 130 // 8,
    4: 16_000_000_000 * 128 // 130 // 8,
    5: 32_000_000_000 * 128 // 130 // 8,
    6: 64_000_000_000 * 242 // 256 // 8,
}
"""Bytes per second of one lane in one direction, by generation; line codes are taken off, packet
headers are not.

PCI Express Base Specification: 2.5 and 5 GT/s with 8b/10b; 8, 16 and 32 GT/s with 128b/130b; 64
GT/s in flits of 256 bytes, 242 of them for packets.
"""


def pcie_bytes_per_s(generation: int, lanes: int) -> int | None:
    """Return bytes per second of a slot in one direction; None for a generation that is not listed.

    >>> pcie_bytes_per_s(4, 16)
    31507692304
    """
    lane = PCIE_LANE_BYTES_PER_S.get(generation)
    return None if lane is None else lane * lanes


def has_bf16(compute_capability: str) -> bool:
    """Return whether a compute capability has bf16 tensor cores and FlashAttention's kernels; below
    8.0 bf16 is emulated, and fp16 needs its loss scaled.

    read: ``torch.cuda.is_bf16_supported`` of torch 2.13, and ``sdp_utils.cpp`` below
    aten/src/ATen/native/transformers/cuda, ``check_flash_attention_hardware_support``.
    """
    return float(compute_capability) >= 8.0


LABEL_SHARES = 0.75, 1.1
"""Least and most memory of a card as a share of the size on its label; ECC and the driver take up
to a tenth."""
PLAUSIBLE_RATES = {
    "dense_bf16_flops_per_s": (10**12, 10**17, Phrase("operations")),
    "memory_bandwidth_bytes_per_s": (10**10, 10**14, Phrase("bytes")),
}
"""Rates beyond which a file has another unit in mind, with that of the rate: less than a tenth of
the slowest listed card's, more than ten times the fastest's."""


MOST_MAJOR = 19
"""Larger numbers are the spelling of compilers, of which PyTorch has kernels from sm_50 on."""


def _check_capability(text: str) -> None:
    """Raise ValueError for what is not a compute capability, such as ``89`` for 8.9."""
    major, _, minor = text.partition(".")
    plain = major.isdecimal() and minor.isdecimal() and len(minor) == 1
    if not plain or not 1 <= int(major) <= MOST_MAJOR:
        raise ValueError(
            Phrase(
                'compute_capability: {text!r} is not one of CUDA: write "8.9" for sm_89', text=text
            )
        )


class GpuSpec(Spec):
    """One card. Datasheet figures apart from observed ones; each group names its source.

    Rates are per card and dense: a sparse headline is halved. GeForce cards multiply
    16-bit matrices at half rate when they accumulate in fp32, which training does.
    """

    noun = Phrase("a card")
    name: str
    """Name of the card, as ``--gpus`` takes it."""
    device_name: str
    """The name that NVML prints; cards are recognised by exactly this and their capacity."""
    nominal_gib: int
    """The size on the label; tiers count with it."""
    nvml_total_mib: int | None = None
    """The total that NVML reports; ``observed`` says whether it was read from a real card. None
    where NVML reports none."""
    torch_visible_mib: int | None = None
    """``torch.cuda.get_device_properties().total_memory``: the memory that the driver leaves, in
    MiB."""
    context_mib: int | None = None
    """Largest observed memory outside PyTorch's allocator for one process."""
    unified_memory: bool = False
    """Whether the card has no memory of its own and takes the host's."""
    compute_capability: str
    """CUDA's compute capability, such as ``8.9``."""
    multiprocessors: int | None = None
    """Streaming multiprocessors, by which some kernels choose their buffers."""
    dense_bf16_flops_per_s: int | None = None
    """Dense 16-bit tensor rate; bf16 where the card has it, else fp16."""
    memory_bandwidth_bytes_per_s: int | None = None
    """Bytes per second between the card and its memory."""
    nvlink_bytes_per_s: int = 0
    """NVLink in one direction; 0 where the card has none."""
    nvlink_needs_bridge: bool = False
    """Whether NVLink needs a part that is bought apart, so that many cards have none."""
    pcie: str | None = None
    """Generation and width of its slot, such as ``PCIe 4.0 x16``."""
    tdp_watts: int | None = None
    """Power that the card is made for, in watts."""
    source: str
    """Where the datasheet's figures were read."""
    observed: str
    """Where capacity and context were observed, and how surely."""

    def __post_init__(self) -> None:
        if self.nvml_total_mib is None and self.torch_visible_mib is None:
            raise ValueError(Phrase("give nvml_total_mib or torch_visible_mib"))
        least, most = LABEL_SHARES
        for key in ("nvml_total_mib", "torch_visible_mib"):
            mib = getattr(self, key)
            if mib is not None and not least <= mib * MIB / (self.nominal_gib * GIB) <= most:
                raise ValueError(
                    Phrase(
                        "{key}: {mib:,} MiB are not the memory of a card with {gib} GiB on its "
                        "label",
                        key=key,
                        mib=mib,
                        gib=self.nominal_gib,
                    )
                )
        _check_capability(self.compute_capability)
        for key, (slowest, fastest, unit) in PLAUSIBLE_RATES.items():
            rate = getattr(self, key)
            if rate is not None and not slowest <= rate <= fastest:
                raise ValueError(
                    Phrase(
                        "{key}: {rate:,} {unit} per second is no rate of a GPU: a value between "
                        "{slowest:,} and {fastest:,} is expected",
                        key=key,
                        rate=rate,
                        unit=unit,
                        slowest=slowest,
                        fastest=fastest,
                    )
                )

    @property
    def total_mib(self) -> int:
        """NVML's total, or CUDA's where NVML reports none."""
        return self.nvml_total_mib or self.torch_visible_mib or 0

    @property
    def supports_bf16(self) -> bool:
        return has_bf16(self.compute_capability)

    @property
    def pcie_bytes_per_s(self) -> int | None:
        """Bytes per second in one direction, where ``pcie`` names a generation and a width."""
        slot = re.fullmatch(r"PCIe (\d)\.0 x(\d+)", self.pcie or "")
        return pcie_bytes_per_s(int(slot[1]), int(slot[2])) if slot else None


class Accelerator(Struct, frozen=True, kw_only=True):
    """One device as a plan sees it: a card that was detected or named, or the CPU."""

    label: str
    """The name that a person would type: ``rtx-4090``, ``24G``, ``cpu``."""
    device_name: str
    nominal_gib: int
    capacity_bytes: int
    """Bytes that the driver lets one process use when no other process does."""
    in_use_bytes: int = 0
    """Bytes that other processes hold now."""
    holders: tuple[Holder, ...] = ()
    """The processes that can be seen from here."""
    power_limit_watts: int | None = None
    context_bytes: int
    """Bytes taken before the first tensor: CUDA context and libraries."""
    supports_bf16: bool = True
    told_capability: str | None = None
    """The compute capability that the driver reports, or that of a slice's card."""
    is_slice: bool = False
    """Whether it is a MIG slice: CUDA shows a process one, and NCCL joins none
    (planner/hardware/machine_notes.py)."""
    unified_memory: bool = False
    """Whether its memory is the host's: what is moved from one to the other stays where it is."""
    speed: GpuSpec | None = None
    """The card whose speed is used; None where it is unknown."""
    measured: Measurement | None = None
    """What was measured on such a device with the software here; it counts before ``speed``."""

    @property
    def compute_capability(self) -> str | None:
        """The capability of the card whose speed is used; where that is unknown, the reported
        one."""
        return self.told_capability if self.speed is None else self.speed.compute_capability

    @property
    def multiprocessors(self) -> int | None:
        """Streaming multiprocessors of the card whose speed is used; None where it is unknown, and
        for a slice, which has fewer."""
        return None if self.speed is None or self.is_slice else self.speed.multiprocessors

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.in_use_bytes


class Cluster(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Equal devices: the weakest one's numbers stand for all."""

    device: Device
    accelerator: Accelerator
    gpus_per_node: int
    num_nodes: int = 1
    link: Link = "none"
    link_bytes_per_s: int | None = None
    """Bytes per second in one direction between two devices of a node."""
    network: str | None = None
    """The network between nodes, as ``network_name`` spells it; None where it is unknown."""
    host_ram_bytes: int | None = None
    cores: int | None = None
    """Cores of this host that this process may use."""
    driver_version: str | None = None
    cuda_version: str | None = None
    """The newest CUDA version that the driver can run."""
    machine: Machine | None = None
    """All that was read of the machine; None for named cards."""
    runs: tuple[OwnRun, ...] = ()
    """Finished runs on this machine."""
    notes: tuple[str, ...] = ()
    """Sentences on how the cluster was detected or assumed."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.gpus_per_node

    @property
    def nominal_bytes(self) -> int:
        """Bytes of memory by the labels on all cards together."""
        return self.world_size * self.accelerator.nominal_gib * GIB


MOST_PER_HOST = 8
"""Cards that most hosts hold at most: NVIDIA's HGX and DGX boards of A100, H100 and B200 have 8."""
PROCESS_BYTES = 501 * MIB
"""measured: resident memory of a process that has imported torch 2.13, transformers 5.23,
trl 1.16, peft 0.21, bitsandbytes 0.50 and DeepSpeed 0.19, and nothing else (Linux x86-64)."""
