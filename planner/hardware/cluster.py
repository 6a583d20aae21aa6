"""What a plan runs on: one card's facts, and the machine made of them."""

import re
from dataclasses import dataclass, field
from typing import Literal

from planner.base.strict_yaml import Spec
from planner.base.units import GIB, MIB
from planner.hardware.machine_readings import Holder, Machine

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
"""By generation: one direction of one lane, its line code taken off and packet headers not.

PCI Express Base Specification: 2.5 and 5 GT/s with 8b/10b; 8, 16 and 32 GT/s with
128b/130b; 64 GT/s in flits of 256 bytes, 242 of them for packets.
"""


def pcie_bytes_per_s(generation: int, lanes: int) -> int | None:
    """One direction of a slot, or nothing for a generation that is not listed.

    >>> pcie_bytes_per_s(4, 16)
    31507692304
    """
    lane = PCIE_LANE_BYTES_PER_S.get(generation)
    return None if lane is None else lane * lanes


def has_bf16(compute_capability: str) -> bool:
    """bf16 tensor cores and FlashAttention's kernels come with compute capability 8.0; below it
    bf16 is emulated, and fp16 needs its loss scaled.

    read: ``torch.cuda.is_bf16_supported`` of torch 2.13, and ``sdp_utils.cpp`` below
    aten/src/ATen/native/transformers/cuda, ``check_flash_attention_hardware_support``.
    """
    return float(compute_capability) >= 8.0


class GpuSpec(Spec):
    """One card. Datasheet figures apart from observed ones; each group names its source.

    Rates are per card and dense: a sparse headline is halved. GeForce cards multiply
    16-bit matrices at half rate when they accumulate in fp32, which training does.
    """

    name: str
    device_name: str
    """As NVML prints it: cards are recognised by exactly this and their capacity."""
    nominal_gib: int
    """The size on the label; tiers count with it."""
    nvml_total_mib: int | None = None
    """What NVML reports as total; ``observed`` says whether that was read from a real card.
    Nothing where NVML does not tell."""
    torch_visible_mib: int | None = None
    """``torch.cuda.get_device_properties().total_memory``: what the driver leaves."""
    context_mib: int | None = None
    """Largest observed memory outside PyTorch's allocator for one process."""
    unified_memory: bool = False
    """Whether the card has no memory of its own and takes the host's."""
    compute_capability: str
    dense_bf16_flops_per_s: int | None = None
    """Dense 16-bit tensor rate; bf16 where the card has it, else fp16."""
    memory_bandwidth_bytes_per_s: int | None = None
    nvlink_bytes_per_s: int = 0
    """NVLink in one direction; 0 where the card has none."""
    nvlink_needs_bridge: bool = False
    """Whether two cards are joined by a part that is bought apart, so that many are not."""
    pcie: str | None = None
    tdp_watts: int | None = None
    source: str
    observed: str
    """Where capacity and context were seen, and how surely."""

    def __post_init__(self) -> None:
        if self.nvml_total_mib is None and self.torch_visible_mib is None:
            raise ValueError("give nvml_total_mib or torch_visible_mib")

    @property
    def total_mib(self) -> int:
        """NVML's total, or CUDA's where NVML does not tell."""
        return self.nvml_total_mib or self.torch_visible_mib or 0

    @property
    def supports_bf16(self) -> bool:
        return has_bf16(self.compute_capability)

    @property
    def pcie_bytes_per_s(self) -> int | None:
        """One direction, where ``pcie`` names a generation and a width."""
        slot = re.fullmatch(r"PCIe (\d)\.0 x(\d+)", self.pcie or "")
        return pcie_bytes_per_s(int(slot[1]), int(slot[2])) if slot else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device as a plan sees it: a card found, a card named, or the CPU."""

    label: str
    """What a person would type for it: ``rtx-4090``, ``24G``, ``cpu``."""
    device_name: str
    nominal_gib: int
    capacity_bytes: int
    """What the driver lets one process use when nobody else does."""
    in_use_bytes: int = 0
    """Held by other processes now."""
    holders: tuple[Holder, ...] = ()
    """Those of them that can be seen from here."""
    power_limit_watts: int | None = None
    context_bytes: int
    """Taken before the first tensor: CUDA context and libraries."""
    supports_bf16: bool = True
    told_capability: str | None = None
    """Compute capability by the driver or the card that a slice is of, where that was asked."""
    is_slice: bool = False
    """A MIG slice: CUDA shows a process one, and NCCL joins none
    (planner/hardware/machine_notes.py)."""
    speed: GpuSpec | None = None
    """The card whose speed is used, or nothing where it is unknown."""

    @property
    def compute_capability(self) -> str | None:
        """Of the card whose speed is used; where that is unknown, as it was told."""
        return self.told_capability if self.speed is None else self.speed.compute_capability

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.in_use_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Equal devices: the weakest one's numbers stand for all."""

    device: Device
    accelerator: Accelerator
    gpus_per_node: int
    num_nodes: int = 1
    link: Link = "none"
    link_bytes_per_s: int | None = None
    """One direction, between two devices of a node."""
    network: str | None = None
    """What joins the nodes, by its name in presets/networks.yaml; nothing where it is unknown."""
    host_ram_bytes: int | None = None
    cores: int | None = None
    """Of this host, as far as this process may use them."""
    driver_version: str | None = None
    cuda_version: str | None = None
    """The newest that the driver can run."""
    machine: Machine | None = field(default=None, hash=False)
    """All that was read, where a machine was."""
    notes: tuple[str, ...] = ()
    """What a person should know of how this was found, a sentence each."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.gpus_per_node

    @property
    def nominal_bytes(self) -> int:
        """Memory by the labels on the cards, all of them together."""
        return self.world_size * self.accelerator.nominal_gib * GIB


PROCESS_BYTES = 501 * MIB
"""measured: resident memory of a process that has imported torch 2.13, transformers 5.23,
trl 1.16, peft 0.21, bitsandbytes 0.50 and DeepSpeed 0.19, and nothing else (Linux x86-64)."""
