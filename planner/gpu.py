"""What a plan runs on: one card's facts, and the machine made of them."""

from dataclasses import dataclass
from typing import Literal

from planner.spec import Spec
from planner.units import GIB

Device = Literal["cuda", "cpu"]
Link = Literal["nvlink", "pcie", "none"]


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
    nvml_total_mib: int
    """What NVML reports as total; ``observed`` says whether that was read from a real card."""
    torch_visible_mib: int | None = None
    """``torch.cuda.get_device_properties().total_memory``: what the driver leaves."""
    context_mib: int | None = None
    """Largest observed memory outside PyTorch's allocator for one process."""
    compute_capability: str
    dense_bf16_flops_per_s: int | None = None
    """Dense 16-bit tensor rate; bf16 where the card has it, else fp16."""
    memory_bandwidth_bytes_per_s: int | None = None
    nvlink_bytes_per_s: int = 0
    """NVLink in one direction; 0 where the card has none."""
    pcie: str | None = None
    tdp_watts: int | None = None
    source: str
    observed: str
    """Where capacity and context were seen, and how surely."""

    @property
    def supports_bf16(self) -> bool:
        """bf16 tensor cores come with compute capability 8.0; below it is emulated."""
        return float(self.compute_capability) >= 8.0


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
    context_bytes: int
    """Taken before the first tensor: CUDA context and libraries."""
    supports_bf16: bool = True
    speed: GpuSpec | None = None
    """The card whose speed is used, or nothing where it is unknown."""

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
    host_ram_bytes: int | None = None
    notes: tuple[str, ...] = ()
    """What a person should know of how this was found, a sentence each."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.gpus_per_node

    @property
    def nominal_bytes(self) -> int:
        """Memory by the labels on the cards, all of them together."""
        return self.world_size * self.accelerator.nominal_gib * GIB
