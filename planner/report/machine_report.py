"""The section of the report on the machine that a plan is for, as far as it was read."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from planner.base.phrases import Joined, Phrase
from planner.base.units import GIB, MIB, format_gib
from planner.hardware.cluster import Accelerator, Cluster, Link, has_bf16
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
LINKS: dict[Link, str] = {"nvlink": Phrase(", NVLink"), "pcie": Phrase(", PCIe"), "none": ""}


def machine_section(cluster: Cluster) -> Table:
    """Return the section on a machine."""
    return facts(machine_rows(cluster))


def machine_rows(cluster: Cluster) -> list[Row]:
    """Return the machine in one line, what was read of it, and the notes."""
    rows: list[Row] = [(Phrase("Machine"), machine_line(cluster))]
    machine = cluster.machine
    if machine is not None:
        rows += [("  " + name, text) for name, text in _readings(machine, cluster)]
    elif cluster.device == "cpu":
        rows.append(
            ("  " + Phrase("host"), Phrase("{cores} {cores[core|cores]}", cores=cluster.cores))
        )
    return [*rows, *_notes(cluster.notes)]


def _notes(notes: Sequence[str]) -> Iterator[Row]:
    for number, note in enumerate(notes):
        title = Phrase("notes") if len(notes) > 1 else Phrase("note")
        yield "" if number else "  " + title, Prose(note, "dim")


def machine_line(cluster: Cluster) -> str:
    """Return nodes, cards, memory, links and network in one line."""
    accelerator = cluster.accelerator
    num_nodes, name = cluster.num_nodes, cluster.network
    nodes = Phrase("{num_nodes:,} nodes of ", num_nodes=num_nodes) if num_nodes > 1 else ""
    network = Phrase(", {name} between nodes", name=name) if name else ""
    unequal = _unequal(cluster)
    if unequal is not None:
        return nodes + unequal + network
    count = f"{cluster.gpus_per_node} x " if cluster.world_size > 1 else ""
    free = ""
    if accelerator.in_use_bytes:
        free = Phrase(", {gib} GiB free", gib=format_gib(accelerator.free_bytes))
    each = Phrase(" each") if cluster.world_size > 1 and cluster.device == "cuda" else ""
    link = LINKS[cluster.link]
    size = format_gib(accelerator.capacity_bytes)
    return Phrase(
        "{nodes}{count}{card}, {gib} GiB{each}{free}{link}{network}",
        nodes=nodes,
        count=count,
        card=_card_name(accelerator),
        gib=size,
        each=each,
        free=free,
        link=link,
        network=network,
    )


def _card_name(accelerator: Accelerator) -> str:
    """Return the name of a card; one that is known by its size alone is called by that."""
    label = accelerator.label
    of_size = Phrase("{label} card", label=label)
    return of_size if accelerator.device_name == of_size else accelerator.device_name


def _unequal(cluster: Cluster) -> str | None:
    """Return what the cards count as where they differ in name; None where they do not."""
    if cluster.machine is None or cluster.device == "cpu":
        return None
    names = Counter(each.device.name for each in selection(cluster.machine).gpus)
    if len(names) < 2:
        return None
    cards = Joined(
        " and ", (f"{count} x {name}" if count > 1 else name for name, count in names.items())
    )
    free = format_gib(cluster.accelerator.free_bytes)
    return Phrase(
        "{cards}, each counted as one with {gib} GiB{link}",
        cards=cards,
        gib=free,
        link=LINKS[cluster.link],
    )


def _readings(machine: Machine, cluster: Cluster) -> Iterator[tuple[str, str]]:
    if cluster.device == "cuda":
        chosen = selection(machine)
        yield Phrase("compute"), _compute(chosen.gpus)
        yield from _cards(chosen.gpus)
        if len(chosen.gpus) > 1:
            yield Phrase("links"), _links(machine.nvml, chosen, cluster)
        nodes = _numa_nodes(chosen)
        if nodes:
            yield "NUMA", nodes
        yield Phrase("driver"), _driver(machine)
    yield Phrase("host"), _host(machine.host)
    if machine.saved_on is not None:
        yield Phrase("saved"), machine.saved_on


def _compute(gpus: Sequence[UsableGpu]) -> str:
    known = {each.compute_capability for each in gpus} - {None}
    if not known:
        return Phrase("capability unknown: fp16")
    kinds: str = Phrase("bf16, flash attention")
    if not all(has_bf16(capability) for capability in known if capability is not None):
        kinds = Phrase("fp16 with scaled losses; bf16 and flash attention from 8.0")
    return Phrase(
        "capability {capabilities}: {kinds}",
        capabilities=", ".join(sorted(filter(None, known), key=float)),
        kinds=kinds,
    )


def _cards(gpus: Sequence[UsableGpu]) -> Iterator[tuple[str, str]]:
    """Yield a line for each kind of card in each state; most machines have one."""
    alike: dict[str, list[UsableGpu]] = {}
    differ = len({(each.device.name, each.free_bytes) for each in gpus}) > 1
    for each in gpus:
        line: str = Joined(", ", filter(None, [*(_memory(each) if differ else ()), *_card(each)]))
        alike.setdefault(line, []).append(each)
    for line, those in alike.items():
        if line:
            yield _label([each.device for each in those], everyone=len(alike) == 1), line


def _label(devices: Sequence[DeviceReading], *, everyone: bool) -> str:
    if devices[0].is_slice:
        return Phrase("slice")
    if everyone and len(devices) > 1:
        return Phrase("each GPU")
    indices = ranges([each.index for each in devices])
    return f"GPU{'s' if len(devices) > 1 else ''} {indices}"


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
    free: str = Phrase("all free")
    if gpu.accelerator.in_use_bytes > 0:
        free = Phrase("{gib} free", gib=format_gib(gpu.free_bytes))
    size = format_gib(gpu.accelerator.capacity_bytes)
    return Joined(", ", [gpu.device.name, f"{size} GiB"]), free


def _card(gpu: UsableGpu) -> tuple[str, ...]:
    device = gpu.device
    ecc = {True: Phrase("ECC on"), False: Phrase("ECC off"), None: ""}
    return _pcie(device.pcie), _power(gpu), ecc[device.ecc_enabled]


def _pcie(pcie: PcieReading | None) -> str:
    if pcie is None or pcie.generation is None:
        return ""
    lanes = pcie.lanes or pcie.card_lanes
    return f"PCIe {pcie.generation}.0" + (f" x{lanes}" if lanes else "")


def _power(gpu: UsableGpu) -> str:
    limit, usual = gpu.device.power_limit_watts, usual_power_watts(gpu)
    if limit is None:
        return ""
    if usual is None or limit >= usual:
        return f"{limit} W"
    return Phrase("{limit} of {usual} W", limit=limit, usual=usual)


def _links(nvml: NvmlReading, chosen: Selection, cluster: Cluster) -> str:
    pairs = [pair for pair in nvml.pairs if (pair.one, pair.other) in chosen.pairs]
    text: str = _nvlinks(pairs) if cluster.link == "nvlink" else "PCIe"
    if cluster.link_bytes_per_s is not None:
        alike = len({(pair.nvlinks, pair.through_switch) for pair in pairs}) < 2
        slowest = "" if alike else Phrase("slowest pair ")
        text += Phrase(
            ", {slowest}{rate:.1f} GB/s each way",
            slowest=slowest,
            rate=cluster.link_bytes_per_s / 1e9,
        )
    p2p = {pair.p2p for pair in pairs}
    if p2p == {False}:
        text += Phrase(", no P2P: through the host's memory")
    elif p2p == {True}:
        text += ", P2P"
    return text


def _nvlinks(pairs: Sequence[PairReading]) -> str:
    counts = sorted(pair.nvlinks or 0 for pair in pairs)
    fewest, most = counts[0], counts[-1]
    many = f"{most}" if fewest == most else Phrase("{low} to {high}", low=fewest, high=most)
    switch = Phrase(" through a switch") if all(pair.through_switch for pair in pairs) else ""
    return Phrase("NVLink, {many} per pair{switch}", many=many, switch=switch)


def _numa_nodes(chosen: Selection) -> str:
    """Return the NUMA node of every GPU where there are several: then traffic between GPUs crosses
    sockets."""
    nodes: dict[int, list[int]] = {}
    for each in chosen.gpus:
        if each.device.numa_node is not None:
            nodes.setdefault(each.device.numa_node, []).append(each.device.index)
    if len(nodes) < 2:
        return ""
    parts = (
        Phrase("GPU {indices} at node {node}", indices=ranges(indices), node=node)
        for node, indices in sorted(nodes.items())
    )
    return Joined(", ", parts)


def _driver(machine: Machine) -> str:
    parts = [machine.nvml.driver_version or Phrase("unknown")]
    if machine.nvml.cuda_version is not None:
        parts.append(Phrase("CUDA up to {version}", version=machine.nvml.cuda_version))
    torch = machine.torch
    if torch is not None:
        built = Phrase(" for CUDA {cuda}", cuda=torch.cuda) if torch.cuda is not None else ""
        parts.append(Phrase("torch {version}{built}", version=torch.version, built=built))
    return Joined(", ", parts)


def _host(host: HostReading) -> str:
    cores, all_cores = Phrase("{cores} {cores[core|cores]}", cores=host.cores), host.machine_cores
    if all_cores is not None and all_cores > host.cores:
        cores = Phrase(
            "{cores} {cores[core|cores]} of {all_cores}", cores=host.cores, all_cores=all_cores
        )
    free, total = format_gib(host.available_bytes, 0), format_gib(host.total_bytes, 0)
    memory = Phrase("{free} of {total} GiB of memory", free=free, total=total)
    if host.disk_free_bytes is not None:
        memory += Phrase(" and {size} of disk", size=_size(host.disk_free_bytes))
    parts = [cores, Phrase("{memory} free", memory=memory)]
    if host.machine_bytes is not None and host.machine_bytes > host.total_bytes:
        parts.append(
            Phrase(
                "in a container of a machine with {gib} GiB",
                gib=format_gib(host.machine_bytes, 0),
            )
        )
    return Joined(", ", parts)


def _size(num_bytes: int) -> str:
    return f"{format_gib(num_bytes, 0)} GiB" if num_bytes >= GIB else f"{num_bytes // MIB} MiB"


def lacking_now(cluster: Cluster, *, host_bytes: int, disk_bytes: int) -> str | None:
    """Return what a run needs and the host lacks now; None if it has enough."""
    host = cluster.machine.host if cluster.machine is not None else None
    if host is None:
        return None
    short = []
    if cluster.device == "cuda" and host_bytes > host.available_bytes:
        short.append(Phrase("{gib} GiB of memory", gib=format_gib(host.available_bytes, 1)))
    if host.disk_free_bytes is not None and disk_bytes > host.disk_free_bytes:
        short.append(Phrase("{gib} GiB of disk", gib=format_gib(host.disk_free_bytes)))
    if not short:
        return None
    return Phrase("only {what} available here now", what=Joined(" and ", short))
