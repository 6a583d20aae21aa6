"""The cluster that NVML's answers make: which devices count, and what a plan may count on.

Functions from readings to values; ``planner.nvml`` and ``planner.detect`` do the reading.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from planner.cards import context_bytes, find_card, label_gib, visible_bytes
from planner.gpu import Accelerator, Cluster, GpuSpec, Holder, Link
from planner.host import PROCESS_BYTES
from planner.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """What NVML says of a GPU or of one MIG slice; nothing where it does not say."""

    index: int
    """Of the GPU, in the order of the PCI bus."""
    uuid: str
    name: str
    card_name: str
    """Of the GPU, also for a slice."""
    total_bytes: int | None
    reserved_bytes: int = 0
    """Kept by the driver, part of the total."""
    free_bytes: int | None
    holders: tuple[Holder, ...] | None = ()
    compute_capability: str | None = None
    power_limit_watts: int | None = None
    pcie_bytes_per_s: int | None = None
    num_nvlinks: int = 0
    """Active ones."""
    is_slice: bool = False
    mig_enabled: bool = False
    slices: tuple["DeviceReading", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReading:
    """All GPUs, or the reason why there are none."""

    devices: tuple[DeviceReading, ...] = ()
    nvlink_pairs: frozenset[tuple[int, int]] | None = frozenset()
    """Indices of GPUs that NVLink joins, directly or through a switch, the lower one first."""
    driver_version: str | None = None
    cuda_version: str | None = None
    problem: str | None = None
    lost: tuple[str, ...] = ()
    """GPUs that are there and do not answer, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    cpu_name: str
    cores: int
    total_bytes: int
    """Of the machine, or of the control group around this process where that is less."""
    available_bytes: int
    multiplies_bf16: bool = False
    """Whether the processor has instructions for it; without them it is emulated, slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device, the preset it matches as a whole card, and what a plan may count on."""

    device: DeviceReading
    card: GpuSpec | None
    accelerator: Accelerator

    @property
    def free_bytes(self) -> int:
        return self.accelerator.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """From all GPUs to those that a plan is for."""

    selected: tuple[DeviceReading, ...]
    """Left by CUDA_VISIBLE_DEVICES."""
    shown: tuple[DeviceReading, ...]
    """Of these, what CUDA shows to one process."""
    found: tuple[Found, ...]
    """Of these, what is known well enough to plan with."""

    @property
    def weakest(self) -> Found:
        return min(self.found, key=lambda each: each.free_bytes)

    @property
    def slowest(self) -> GpuSpec | None:
        """Nothing where the speed of one is unknown."""
        cards = [each.card for each in self.found if each.card is not None]
        if len(cards) < len(self.found):
            return None
        return min(cards, key=lambda card: card.dense_bf16_flops_per_s or 0)

    @property
    def pairs(self) -> set[tuple[int, int]]:
        return set(combinations(sorted(each.device.index for each in self.found), 2))


def selection(machine: MachineReading, environ: Mapping[str, str]) -> Selection:
    selected = select(machine.devices, environ)
    shown = enumerable(selected)
    found = (find(device) for device in shown)
    return Selection(
        selected=selected,
        shown=shown,
        found=tuple(each for each in found if each is not None),
    )


def select(
    devices: Sequence[DeviceReading], environ: Mapping[str, str]
) -> tuple[DeviceReading, ...]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order.

    read: torch/cuda/__init__.py of torch 2.13, ``_parse_visible_devices`` and
    ``_transform_uuid_to_ordinals``. The first entry says of what kind all are; an entry that
    matches nothing, or more than one device, ends the list; a device named twice hides all.
    """
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return tuple(devices)
    entries = [entry.strip() for entry in text.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if entries[0].startswith(prefix)), None)
    candidates = devices
    if kind == "MIG-":
        candidates = [each for device in devices for each in device.slices]
    chosen: list[DeviceReading] = []
    for entry in entries:
        match = _by_index(devices, entry) if kind is None else _by_uuid(candidates, entry, kind)
        if match is None:
            break
        if match in chosen:
            return ()
        chosen.append(match)
    return tuple(chosen)


def _by_uuid(devices: Sequence[DeviceReading], entry: str, kind: str) -> DeviceReading | None:
    matches = [each for each in devices if each.uuid.startswith(entry)]
    return matches[0] if entry.startswith(kind) and len(matches) == 1 else None


def _by_index(devices: Sequence[DeviceReading], entry: str) -> DeviceReading | None:
    """CUDA reads the digits at the start, as C's ``strtoul`` does."""
    number = re.match(r"\+?([0-9]{1,9})", entry)
    matches = [each for each in devices if number is not None and each.index == int(number[1])]
    return matches[0] if matches else None


def enumerable(selected: Sequence[DeviceReading]) -> tuple[DeviceReading, ...]:
    """What CUDA shows of them: all GPUs, or one MIG slice and nothing else.

    read: NVIDIA MIG User Guide, "CUDA Device Enumeration". A GPU in MIG mode is seen through
    its slices only.
    """
    parts = [
        part for device in selected for part in (device.slices if device.mig_enabled else (device,))
    ]
    slices = [part for part in parts if part.is_slice]
    return tuple(slices[:1] or parts)


def find(device: DeviceReading) -> Found | None:
    """Nothing for a device whose memory neither NVML nor a preset knows."""
    card = find_card(device.card_name, None if device.is_slice else device.total_bytes)
    whole = None if device.is_slice else card
    capacity = _capacity_bytes(device, whole)
    if capacity is None:
        return None
    nominal_gib = whole.nominal_gib if whole is not None else label_gib(device.total_bytes or 0)
    free = capacity if device.free_bytes is None else min(device.free_bytes, capacity)
    return Found(
        device=device,
        card=whole,
        accelerator=Accelerator(
            label=whole.name if whole is not None else _slug(device.name),
            device_name=device.name,
            nominal_gib=nominal_gib,
            capacity_bytes=capacity,
            in_use_bytes=capacity - free,
            holders=device.holders or (),
            power_limit_watts=device.power_limit_watts,
            context_bytes=context_bytes(card, nominal_gib),
            supports_bf16=_supports_bf16(device, card),
            speed=whole,
        ),
    )


def _capacity_bytes(device: DeviceReading, card: GpuSpec | None) -> int | None:
    """The less of what was seen on such a card and what this one's driver leaves."""
    seen = visible_bytes(card) if card is not None else None
    left = device.total_bytes - device.reserved_bytes if device.total_bytes is not None else None
    return min((each for each in (seen, left) if each is not None), default=None)


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    return words.removeprefix("nvidia-") or "gpu"


def _supports_bf16(device: DeviceReading, card: GpuSpec | None) -> bool:
    """fp16 runs everywhere, so that is planned where neither NVML nor a preset tells."""
    if device.compute_capability is not None:
        return float(device.compute_capability) >= 8.0
    return card is not None and card.supports_bf16


def gpu_cluster(
    machine: MachineReading, chosen: Selection, host: HostReading, notes: Sequence[str]
) -> Cluster:
    """Every rank gets the same plan, so the weakest device decides."""
    link, link_bytes_per_s = _link(machine, chosen)
    accelerators = [each.accelerator for each in chosen.found]
    return Cluster(
        device="cuda",
        accelerator=replace(
            chosen.weakest.accelerator,
            nominal_gib=min(each.nominal_gib for each in accelerators),
            context_bytes=max(each.context_bytes for each in accelerators),
            supports_bf16=all(each.supports_bf16 for each in accelerators),
            speed=chosen.slowest,
        ),
        gpus_per_node=len(accelerators),
        link=link,
        link_bytes_per_s=link_bytes_per_s,
        host_ram_bytes=host.total_bytes,
        cores=host.cores,
        driver_version=machine.driver_version,
        cuda_version=machine.cuda_version,
        notes=tuple(notes),
    )


def _link(machine: MachineReading, chosen: Selection) -> tuple[Link, int | None]:
    """The slowest pair's: a ring goes through all."""
    if not chosen.pairs:
        return "none", None
    if chosen.pairs <= (machine.nvlink_pairs or set()):
        rates = [each.card.nvlink_bytes_per_s if each.card else 0 for each in chosen.found]
        return "nvlink", min(rates) or None
    slots = [
        each.device.pcie_bytes_per_s or (each.card.pcie_bytes_per_s if each.card else None)
        for each in chosen.found
    ]
    known = [slot for slot in slots if slot is not None]
    return "pcie", min(known) if len(known) == len(slots) else None


def cpu_cluster(host: HostReading, note: str | None = None) -> Cluster:
    """Training on the CPU, by one process."""
    return Cluster(
        device="cpu",
        accelerator=Accelerator(
            label="cpu",
            device_name=host.cpu_name,
            nominal_gib=max(1, round(host.total_bytes / GIB)),
            capacity_bytes=host.total_bytes,
            in_use_bytes=host.total_bytes - host.available_bytes,
            context_bytes=PROCESS_BYTES,
            supports_bf16=host.multiplies_bf16,
        ),
        gpus_per_node=1,
        host_ram_bytes=host.total_bytes,
        cores=host.cores,
        notes=(note,) if note is not None else (),
    )
