"""The cluster that a machine's readings make: which devices count, and what a plan may count on.

Functions from readings to values; ``planner.hardware.nvml`` and ``planner.hardware.linux_host`` do
the reading.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

from msgspec import Struct, structs

from planner.base.units import GIB
from planner.hardware.cards import (
    context_bytes,
    find_card,
    label_gib,
    resized_card,
    visible_bytes,
)
from planner.hardware.cluster import (
    PROCESS_BYTES,
    Accelerator,
    Cluster,
    GpuSpec,
    Link,
    has_bf16,
    pcie_bytes_per_s,
)
from planner.hardware.machine_readings import DeviceReading, HostReading, Machine, NvmlReading
from planner.hardware.measured.kept_measurements import measurement_for
from planner.hardware.measured.measurement import Measurement
from planner.hardware.visible_devices import enumerable, select


class UsableGpu(Struct, frozen=True):
    """A device that is known well enough to plan with, and what a plan may count on."""

    device: DeviceReading
    card: GpuSpec | None
    """The preset it matches as a whole card, with this machine's memory where the two differ; None
    without a preset."""
    accelerator: Accelerator
    is_resized: bool = False

    @property
    def free_bytes(self) -> int:
        return self.accelerator.free_bytes

    @property
    def compute_capability(self) -> str | None:
        """The capability that NVML reports, else the preset's."""
        known = None if self.card is None else self.card.compute_capability
        return self.device.compute_capability or known

    @property
    def has_hosts_memory(self) -> bool:
        return self.card is not None and self.card.unified_memory

    @property
    def flops_per_s(self) -> int | None:
        return None if self.card is None else self.card.dense_bf16_flops_per_s

    @property
    def pcie_bytes_per_s(self) -> int | None:
        """Bytes per second in one direction of this slot, else of the card's own link."""
        pcie = self.device.pcie
        if pcie is not None and pcie.generation is not None:
            lanes = pcie.lanes or pcie.card_lanes
            if lanes is not None:
                return pcie_bytes_per_s(pcie.generation, lanes)
        return self.card.pcie_bytes_per_s if self.card is not None else None


class Selection(Struct, frozen=True):
    """The GPUs that a plan is for, narrowed from all that there are."""

    selected: tuple[DeviceReading, ...]
    """The devices that CUDA_VISIBLE_DEVICES leaves."""
    shown: tuple[DeviceReading, ...]
    """Those of them that CUDA shows to one process."""
    gpus: tuple[UsableGpu, ...]
    """Those of them that are known well enough to plan with."""

    @property
    def weakest(self) -> UsableGpu:
        return min(self.gpus, key=lambda each: each.free_bytes)

    @property
    def slowest(self) -> GpuSpec | None:
        """The slowest card; None where the speed of one is unknown."""
        cards = [each.card for each in self.gpus if each.card is not None]
        if len(cards) < len(self.gpus):
            return None
        return min(cards, key=lambda card: card.dense_bf16_flops_per_s or 0)

    @property
    def pairs(self) -> set[tuple[int, int]]:
        return set(combinations(sorted(each.device.index for each in self.gpus), 2))


def selection(machine: Machine) -> Selection:
    """Return which GPUs of a machine a plan is for."""
    environ: Mapping[str, str] = dict(machine.environment.items())
    selected = select(machine.nvml.devices, environ)
    shown = enumerable(selected)
    gpus = (usable_gpu(device, machine.host) for device in shown)
    return Selection(
        selected=selected,
        shown=shown,
        gpus=tuple(each for each in gpus if each is not None),
    )


def usable_gpu(device: DeviceReading, host: HostReading) -> UsableGpu | None:
    """Return what a plan may count on of a device; None where neither NVML nor a preset knows its
    memory."""
    card = find_card(device.card_name, None if device.is_slice else device.total_bytes)
    whole = None if device.is_slice else card
    resized = None
    if card is None and not device.is_slice:
        resized = resized_card(
            device.card_name, device.total_bytes, device.memory_bandwidth_bytes_per_s
        )
    capacity = _capacity_bytes(device, whole, host)
    if capacity is None:
        return None
    nominal_gib = whole.nominal_gib if whole is not None else label_gib(device.total_bytes or 0)
    known = card or resized
    return UsableGpu(
        device=device,
        card=whole or resized,
        is_resized=resized is not None,
        accelerator=Accelerator(
            label=whole.name if whole is not None else _slug(device.name),
            device_name=device.name,
            nominal_gib=nominal_gib,
            capacity_bytes=capacity,
            in_use_bytes=capacity - min(_free_bytes(device, whole, host), capacity),
            holders=device.holders or (),
            power_limit_watts=device.power_limit_watts,
            context_bytes=context_bytes(known, nominal_gib),
            supports_bf16=_supports_bf16(device, known),
            told_capability=device.compute_capability,
            is_slice=device.is_slice,
            unified_memory=whole is not None and whole.unified_memory,
            speed=whole or resized,
        ),
    )


def _capacity_bytes(device: DeviceReading, card: GpuSpec | None, host: HostReading) -> int | None:
    """Return the least of what was observed on such a card, what this one's driver leaves, and all
    of the host's memory where the card uses that; None if nothing is known."""
    sizes = [visible_bytes(card)] if card is not None else []
    if device.total_bytes is not None:
        sizes.append(max(0, device.total_bytes - device.reserved_bytes))
    if card is not None and card.unified_memory:
        sizes.append(host.total_bytes)
    return min(sizes, default=None)


def _free_bytes(device: DeviceReading, card: GpuSpec | None, host: HostReading) -> int:
    if device.free_bytes is not None:
        return device.free_bytes
    if card is not None and card.unified_memory:
        return host.available_bytes
    return _capacity_bytes(device, card, host) or 0


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    return words.removeprefix("nvidia-") or "gpu"


def _supports_bf16(device: DeviceReading, card: GpuSpec | None) -> bool:
    """Return whether bf16 is planned; without a known capability fp16 is, which runs everywhere."""
    if device.compute_capability is not None:
        return has_bf16(device.compute_capability)
    return card is not None and card.supports_bf16


def gpu_cluster(machine: Machine, chosen: Selection, notes: Sequence[str]) -> Cluster:
    """Return the cluster of the chosen GPUs; every rank gets the same plan, so the weakest
    decides."""
    link, link_bytes_per_s = slowest_link(machine.nvml, chosen)
    accelerators = [each.accelerator for each in chosen.gpus]
    return Cluster(
        device="cuda",
        accelerator=structs.replace(
            chosen.weakest.accelerator,
            nominal_gib=min(each.nominal_gib for each in accelerators),
            context_bytes=max(each.context_bytes for each in accelerators),
            supports_bf16=all(each.supports_bf16 for each in accelerators),
            speed=chosen.slowest,
            measured=_measured(machine, chosen),
        ),
        gpus_per_node=len(accelerators),
        link=link,
        link_bytes_per_s=link_bytes_per_s,
        host_ram_bytes=machine.host.total_bytes,
        cores=machine.host.cores,
        driver_version=machine.nvml.driver_version,
        cuda_version=machine.nvml.cuda_version,
        machine=machine,
        runs=machine.runs,
        notes=tuple(notes),
    )


def _measured(machine: Machine, chosen: Selection) -> Measurement | None:
    """Return what was measured of cards that are alike; None where they differ or nothing was."""
    names = {each.device.name for each in chosen.gpus}
    if len(names) > 1:
        return None
    count = len(chosen.gpus)
    return measurement_for(machine.measurements, device_name=names.pop(), ranks=count)


def pair_links(nvml: NvmlReading) -> dict[tuple[int, int], int | None]:
    """Return the number of NVLinks of each pair of GPUs that was read."""
    return {(pair.one, pair.other): pair.nvlinks for pair in nvml.pairs}


def slowest_link(nvml: NvmlReading, chosen: Selection) -> tuple[Link, int | None]:
    """Return the kind of link between the chosen GPUs, and the rate of the slowest pair, which a
    ring goes through."""
    if not chosen.pairs:
        return "none", None
    links = pair_links(nvml)
    counts = [links.get(pair) or 0 for pair in chosen.pairs]
    if all(counts):
        by_index = {each.device.index: each for each in chosen.gpus}
        rates = [
            nvlink_bytes_per_s(by_index[end], links[pair] or 0)
            for pair in chosen.pairs
            for end in pair
        ]
        return "nvlink", min((rate for rate in rates if rate is not None), default=None)
    slots = [each.pcie_bytes_per_s for each in chosen.gpus]
    known = [slot for slot in slots if slot is not None]
    return "pcie", min(known) if len(known) == len(slots) else None


def nvlink_bytes_per_s(end: UsableGpu, links: int) -> int | None:
    """Return bytes per second of so many links in one direction: their share of the datasheet's
    rate, which leaves out line codes, or NVML's line rate where the card has no preset."""
    device, card = end.device, end.card
    if card is not None and card.nvlink_bytes_per_s and device.card_nvlinks:
        return card.nvlink_bytes_per_s * links // device.card_nvlinks
    if device.nvlink_bytes_per_s is not None:
        return device.nvlink_bytes_per_s * links
    return None


def cpu_cluster(
    host: HostReading,
    note: str | None = None,
    machine: Machine | None = None,
    measurements: Sequence[Measurement] = (),
) -> Cluster:
    """Return the cluster of a processor that trains by one process.

    ``measurements`` are those of this machine where the machine itself is not given.
    """
    known = measurements if machine is None else machine.measurements
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
            measured=measurement_for(known, device_name=host.cpu_name, ranks=1, cores=host.cores),
        ),
        gpus_per_node=1,
        host_ram_bytes=host.total_bytes,
        cores=host.cores,
        machine=machine,
        runs=() if machine is None else machine.runs,
        notes=(note,) if note is not None else (),
    )
