"""The report's first section: the machine that a plan is for, as far as it was read."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from planner.condition_notes import usual_power_watts
from planner.gpu import Cluster, has_bf16
from planner.machine import Found, Selection, pair_links, selection
from planner.readings import HostReading, Machine, NvmlReading, PcieReading
from planner.tables import facts
from planner.units import GIB, MIB, format_gib

Row = tuple[str, RenderableType]


def machine_section(cluster: Cluster) -> Table:
    rows: list[Row] = [("Machine", Text(machine_line(cluster)))]
    machine = cluster.machine
    if machine is not None:
        rows += [(f"  {name}", Text(text)) for name, text in _readings(machine, cluster)]
    elif cluster.device == "cpu":
        rows.append(("  host", Text(f"{cluster.cores} cores")))
    rows += _notes(cluster.notes)
    return facts(rows)


def _notes(notes: Sequence[str]) -> Iterator[Row]:
    for number, note in enumerate(notes):
        yield "" if number else "  note" + ("s" if len(notes) > 1 else ""), Text(note, style="dim")


def machine_line(cluster: Cluster) -> str:
    accelerator = cluster.accelerator
    count = f"{cluster.world_size} x " if cluster.world_size > 1 else ""
    free = ""
    if accelerator.in_use_bytes:
        free = f", {format_gib(accelerator.free_bytes)} GiB free"
    each = " each" if cluster.world_size > 1 and cluster.device == "cuda" else ""
    link = {"nvlink": ", NVLink", "pcie": ", PCIe", "none": ""}[cluster.link]
    size = format_gib(accelerator.capacity_bytes)
    return f"{count}{accelerator.device_name}, {size} GiB{each}{free}{link}"


def _readings(machine: Machine, cluster: Cluster) -> Iterator[tuple[str, str]]:
    if cluster.device == "cuda":
        chosen = selection(machine)
        yield from _cards(chosen.found)
        if len(chosen.found) > 1:
            yield "links", _links(machine.nvml, chosen, cluster)
        yield "driver", _driver(machine)
    yield "host", _host(machine.host)
    if machine.saved_on is not None:
        yield "saved", machine.saved_on


def _cards(found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """One line for equal cards, else one for each."""
    lines = [_card(each) for each in found]
    if len(set(lines)) == 1 and not found[0].device.is_slice:
        named = f"GPU {found[0].device.index}: " if len(found) == 1 else ""
        yield "cards" if len(found) > 1 else "card", named + lines[0]
        return
    for each, line in zip(found, lines, strict=True):
        device = each.device
        size = format_gib(each.accelerator.capacity_bytes)
        free = format_gib(each.free_bytes)
        is_used = each.accelerator.in_use_bytes > 0
        memory = f"{size} GiB, {free} free" if is_used else f"{size} GiB, all free"
        label = "slice" if device.is_slice else f"GPU {device.index}"
        yield label, "; ".join(filter(None, [device.name, memory, line]))


def _card(found: Found) -> str:
    device, card = found.device, found.card
    capability = device.compute_capability or (card.compute_capability if card else None)
    parts = [_capability(capability), _pcie(device.pcie), _power(found)]
    if device.ecc_enabled is not None:
        parts.append(f"ECC {'on' if device.ecc_enabled else 'off'}")
    if device.numa_node is not None:
        parts.append(f"NUMA node {device.numa_node}")
    return ", ".join(filter(None, parts))


def _capability(capability: str | None) -> str:
    if capability is None:
        return ""
    kinds = "bf16 and flash attention" if has_bf16(capability) else "fp16"
    return f"compute capability {capability} ({kinds})"


def _pcie(pcie: PcieReading | None) -> str:
    if pcie is None or pcie.generation is None:
        return ""
    lanes = pcie.lanes or pcie.card_lanes
    return f"PCIe {pcie.generation}.0" + (f" x{lanes}" if lanes else "")


def _power(found: Found) -> str:
    limit, usual = found.device.power_limit_watts, usual_power_watts(found)
    if limit is None:
        return ""
    return f"{limit} W" if usual is None or limit >= usual else f"{limit} of {usual} W"


def _links(nvml: NvmlReading, chosen: Selection, cluster: Cluster) -> str:
    counts = pair_links(nvml)
    links = [counts.get(pair) or 0 for pair in chosen.pairs]
    if cluster.link == "nvlink":
        many = f"{min(links)}" if min(links) == max(links) else f"{min(links)} to {max(links)}"
        text = f"NVLink, {many} a pair"
    else:
        text = "PCIe"
    if cluster.link_bytes_per_s is not None:
        slowest = "slowest pair " if len(chosen.pairs) > 1 else ""
        text += f", {slowest}{cluster.link_bytes_per_s / 1e9:.1f} GB/s each way"
    p2p = {pair.p2p for pair in nvml.pairs if (pair.one, pair.other) in chosen.pairs}
    if p2p in ({True}, {False}):
        text += ", P2P" if p2p == {True} else ", no P2P"
    return text


def _driver(machine: Machine) -> str:
    parts = [machine.nvml.driver_version or "unknown"]
    if machine.nvml.cuda_version is not None:
        parts.append(f"CUDA up to {machine.nvml.cuda_version}")
    torch = machine.torch
    if torch is not None:
        built = f" for CUDA {torch.cuda}" if torch.cuda is not None else ""
        parts.append(f"torch {torch.version}{built}")
    return ", ".join(parts)


def _host(host: HostReading) -> str:
    cores = f"{host.cores} cores"
    if host.machine_cores is not None and host.machine_cores > host.cores:
        cores += f" of {host.machine_cores}"
    of = f"{format_gib(host.total_bytes, 0)} GiB"
    if host.machine_bytes is not None and host.machine_bytes > host.total_bytes:
        of += f" (container's; the machine has {format_gib(host.machine_bytes, 0)})"
    parts = [cores, f"{format_gib(host.available_bytes, 0)} of {of} of memory available"]
    if host.shm_bytes is not None:
        parts.append(f"{_size(host.shm_bytes)} in /dev/shm")
    if host.disk_free_bytes is not None:
        parts.append(f"{_size(host.disk_free_bytes)} of disk free here")
    return ", ".join(parts)


def _size(num_bytes: int) -> str:
    return f"{format_gib(num_bytes, 0)} GiB" if num_bytes >= GIB else f"{num_bytes // MIB} MiB"


def shortage(cluster: Cluster, *, host_bytes: int, disk_bytes: int) -> str | None:
    """What a run needs and the host does not have now."""
    host = cluster.machine.host if cluster.machine is not None else None
    if host is None:
        return None
    short = []
    if cluster.device == "cuda" and host_bytes > host.available_bytes:
        short.append(f"{format_gib(host.available_bytes, 1)} GiB of memory")
    if host.disk_free_bytes is not None and disk_bytes > host.disk_free_bytes:
        short.append(f"{format_gib(host.disk_free_bytes)} GiB of disk")
    return f"only {' and '.join(short)} available here now" if short else None
