"""The section of the report on the machine that a plan is for, as far as it was read."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from planner.base.units import GIB, MIB, format_gib
from planner.hardware.cluster import Cluster, Link, has_bf16
from planner.hardware.condition_notes import usual_power_watts
from planner.hardware.machine import Selection, UsableGpu, selection
from planner.hardware.machine_readings import (
    DeviceReading,
    HostReading,
    Machine,
    NvmlReading,
    PairReading,
    PcieReading,
)
from planner.report.prose import Prose
from planner.report.tables import facts

Row = tuple[str, RenderableType]
LINKS: dict[Link, str] = {"nvlink": ", NVLink", "pcie": ", PCIe", "none": ""}


def machine_section(cluster: Cluster) -> Table:
    """Return the section on a machine."""
    return facts(machine_rows(cluster))


def machine_rows(cluster: Cluster) -> list[Row]:
    """Return the machine in one line, what was read of it, and the notes."""
    rows: list[Row] = [("Machine", machine_line(cluster))]
    machine = cluster.machine
    if machine is not None:
        rows += [(f"  {name}", text) for name, text in _readings(machine, cluster)]
    elif cluster.device == "cpu":
        rows.append(("  host", f"{cluster.cores} cores"))
    return [*rows, *_notes(cluster.notes)]


def _notes(notes: Sequence[str]) -> Iterator[Row]:
    for number, note in enumerate(notes):
        yield "" if number else "  note" + ("s" if len(notes) > 1 else ""), Prose(note, "dim")


def machine_line(cluster: Cluster) -> str:
    """Return nodes, cards, memory, links and network in one line."""
    accelerator = cluster.accelerator
    nodes = f"{cluster.num_nodes:,} nodes of " if cluster.num_nodes > 1 else ""
    network = f", {cluster.network} between nodes" if cluster.network else ""
    unequal = _unequal(cluster)
    if unequal is not None:
        return f"{nodes}{unequal}{network}"
    count = f"{cluster.gpus_per_node} x " if cluster.world_size > 1 else ""
    free = ""
    if accelerator.in_use_bytes:
        free = f", {format_gib(accelerator.free_bytes)} GiB free"
    each = " each" if cluster.world_size > 1 and cluster.device == "cuda" else ""
    link = LINKS[cluster.link]
    size = format_gib(accelerator.capacity_bytes)
    return f"{nodes}{count}{accelerator.device_name}, {size} GiB{each}{free}{link}{network}"


def _unequal(cluster: Cluster) -> str | None:
    """Return what the cards count as where they differ in name; None where they do not."""
    if cluster.machine is None or cluster.device == "cpu":
        return None
    names = Counter(each.device.name for each in selection(cluster.machine).gpus)
    if len(names) < 2:
        return None
    cards = " and ".join(
        f"{count} x {name}" if count > 1 else name for name, count in names.items()
    )
    free = format_gib(cluster.accelerator.free_bytes)
    return f"{cards}, each counted as one with {free} GiB{LINKS[cluster.link]}"


def _readings(machine: Machine, cluster: Cluster) -> Iterator[tuple[str, str]]:
    if cluster.device == "cuda":
        chosen = selection(machine)
        yield "compute", _compute(chosen.gpus)
        yield from _cards(chosen.gpus)
        if len(chosen.gpus) > 1:
            yield "links", _links(machine.nvml, chosen, cluster)
        nodes = _numa_nodes(chosen)
        if nodes:
            yield "NUMA", nodes
        yield "driver", _driver(machine)
    yield "host", _host(machine.host)
    if machine.saved_on is not None:
        yield "saved", machine.saved_on


def _compute(gpus: Sequence[UsableGpu]) -> str:
    known = {each.compute_capability for each in gpus} - {None}
    if not known:
        return "capability unknown: fp16"
    kinds = "bf16, flash attention"
    if not all(has_bf16(capability) for capability in known if capability is not None):
        kinds = "fp16 with scaled losses; bf16 and flash attention from 8.0"
    return f"capability {', '.join(sorted(filter(None, known), key=float))}: {kinds}"


def _cards(gpus: Sequence[UsableGpu]) -> Iterator[tuple[str, str]]:
    """Yield a line for each kind of card in each state; most machines have one."""
    alike: dict[str, list[UsableGpu]] = {}
    differ = len({(each.device.name, each.free_bytes) for each in gpus}) > 1
    for each in gpus:
        line = ", ".join(filter(None, [*(_memory(each) if differ else ()), *_card(each)]))
        alike.setdefault(line, []).append(each)
    for line, those in alike.items():
        if line:
            yield _label([each.device for each in those], everyone=len(alike) == 1), line


def _label(devices: Sequence[DeviceReading], *, everyone: bool) -> str:
    if devices[0].is_slice:
        return "slice"
    if everyone and len(devices) > 1:
        return "each GPU"
    return f"GPU{'s' if len(devices) > 1 else ''} {ranges([each.index for each in devices])}"


def ranges(numbers: Sequence[int]) -> str:
    """Return indices with runs joined.

    >>> ranges([0, 1, 2, 3, 6])
    '0-3, 6'
    """
    ordered = sorted(numbers)
    starts = [n for n in ordered if n - 1 not in ordered]
    ends = [n for n in ordered if n + 1 not in ordered]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(f"{one}" if one == end else f"{one}-{end}" for one, end in pairs)


def _memory(gpu: UsableGpu) -> tuple[str, str]:
    free = "all free"
    if gpu.accelerator.in_use_bytes > 0:
        free = f"{format_gib(gpu.free_bytes)} free"
    size = format_gib(gpu.accelerator.capacity_bytes)
    return f"{gpu.device.name}, {size} GiB", free


def _card(gpu: UsableGpu) -> tuple[str, ...]:
    device = gpu.device
    ecc = "" if device.ecc_enabled is None else f"ECC {'on' if device.ecc_enabled else 'off'}"
    return _pcie(device.pcie), _power(gpu), ecc


def _pcie(pcie: PcieReading | None) -> str:
    if pcie is None or pcie.generation is None:
        return ""
    lanes = pcie.lanes or pcie.card_lanes
    return f"PCIe {pcie.generation}.0" + (f" x{lanes}" if lanes else "")


def _power(gpu: UsableGpu) -> str:
    limit, usual = gpu.device.power_limit_watts, usual_power_watts(gpu)
    if limit is None:
        return ""
    return f"{limit} W" if usual is None or limit >= usual else f"{limit} of {usual} W"


def _links(nvml: NvmlReading, chosen: Selection, cluster: Cluster) -> str:
    pairs = [pair for pair in nvml.pairs if (pair.one, pair.other) in chosen.pairs]
    text = _nvlinks(pairs) if cluster.link == "nvlink" else "PCIe"
    if cluster.link_bytes_per_s is not None:
        alike = len({(pair.nvlinks, pair.through_switch) for pair in pairs}) < 2
        slowest = "" if alike else "slowest pair "
        text += f", {slowest}{cluster.link_bytes_per_s / 1e9:.1f} GB/s each way"
    p2p = {pair.p2p for pair in pairs}
    if p2p == {False}:
        text += ", no P2P: through the host's memory"
    elif p2p == {True}:
        text += ", P2P"
    return text


def _nvlinks(pairs: Sequence[PairReading]) -> str:
    counts = sorted(pair.nvlinks or 0 for pair in pairs)
    many = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    switch = " through a switch" if all(pair.through_switch for pair in pairs) else ""
    return f"NVLink, {many} per pair{switch}"


def _numa_nodes(chosen: Selection) -> str:
    """Return the NUMA node of every GPU where there are several: then traffic between GPUs crosses
    sockets."""
    nodes: dict[int, list[int]] = {}
    for each in chosen.gpus:
        if each.device.numa_node is not None:
            nodes.setdefault(each.device.numa_node, []).append(each.device.index)
    if len(nodes) < 2:
        return ""
    parts = (f"GPU {ranges(indices)} at node {node}" for node, indices in sorted(nodes.items()))
    return ", ".join(parts)


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
    free, total = format_gib(host.available_bytes, 0), format_gib(host.total_bytes, 0)
    memory = f"{free} of {total} GiB of memory"
    if host.disk_free_bytes is not None:
        memory += f" and {_size(host.disk_free_bytes)} of disk"
    parts = [cores, f"{memory} free"]
    if host.machine_bytes is not None and host.machine_bytes > host.total_bytes:
        parts.append(f"in a container of a machine with {format_gib(host.machine_bytes, 0)} GiB")
    return ", ".join(parts)


def _size(num_bytes: int) -> str:
    return f"{format_gib(num_bytes, 0)} GiB" if num_bytes >= GIB else f"{num_bytes // MIB} MiB"


def lacking_now(cluster: Cluster, *, host_bytes: int, disk_bytes: int) -> str | None:
    """Return what a run needs and the host lacks now; None if it has enough."""
    host = cluster.machine.host if cluster.machine is not None else None
    if host is None:
        return None
    short = []
    if cluster.device == "cuda" and host_bytes > host.available_bytes:
        short.append(f"{format_gib(host.available_bytes, 1)} GiB of memory")
    if host.disk_free_bytes is not None and disk_bytes > host.disk_free_bytes:
        short.append(f"{format_gib(host.disk_free_bytes)} GiB of disk")
    return f"only {' and '.join(short)} available here now" if short else None
