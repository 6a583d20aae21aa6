"""``--gpus``: the machine that a plan is for, as named on the command line or as found here."""

import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from planner.cards import named_cluster, sized_cluster
from planner.errors import InvalidRequestError
from planner.gpu import Cluster
from planner.machine import (
    HostReading,
    MachineReading,
    cpu_cluster,
    gpu_cluster,
    selection,
)
from planner.machine_notes import notes, why_no_gpu
from planner.presets import aliases, load_gpu
from planner.units import KIB


def parse_gpus(text: str) -> Cluster:
    """The cluster of ``cpu``, ``24G``, ``2x24G``, ``rtx-4090``, ``rtx-4090:2``, ``8xh100``."""
    spec = text.strip().lower()
    if spec == "cpu":
        return cpu_cluster(read_host())
    count, card = _count_and_card(spec, text)
    size = re.fullmatch(r"([1-9][0-9]{0,3}) ?(?:g|gb|gib)", card)
    if size is not None:
        return sized_cluster(int(size[1]), count)
    if re.fullmatch(r"[0-9.]+ ?(g|gb|gib|m|mb|mib)", card):
        raise _bad_spec(text, "sizes are whole GiB from 1G to 9999G, such as 24G.")
    if card == "cpu":
        raise _bad_spec(text, "the CPU takes no count: write cpu.")
    if card.isdigit() and card not in aliases("gpus"):
        raise _bad_spec(text, f"a size needs its unit, did you mean {card}G?")
    return named_cluster(load_gpu(card), count)


def _count_and_card(spec: str, text: str) -> tuple[int, str]:
    """Of ``CARD``, ``2xCARD`` or ``CARD:2``."""
    before = re.fullmatch(r"(-?[0-9]+)x(.*)", spec)
    after = re.fullmatch(r"(.*):(.*)", spec)
    count, card = "1", spec
    if before is not None:
        count, card = before.groups()
    elif after is not None:
        card, count = after.groups()
    if not re.fullmatch(r"[1-9][0-9]{0,3}", count):
        raise _bad_spec(text, f"{count!r} is no number of cards from 1 to 9999.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9 ._/-]{0,79}", card):
        raise _bad_spec(text, f"{card!r} is no card and no size." if card else "it names no card.")
    return int(count), card


def _bad_spec(text: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"--gpus {text!r}: {reason} Write for example 24G, 2x24G, rtx-4090, rtx-4090:2, "
        "8xh100-sxm-80gb, cpu or auto (plan --list gpus shows the cards)"
    )


def detect(environ: Mapping[str, str]) -> Cluster:
    """What this machine has, as far as ``environ`` lets CUDA see it."""
    from planner.nvml import read_nvml  # a plan for a named card does without pynvml

    return cluster_from(read_nvml(), read_host(), environ)


def read_cpu() -> Cluster:
    """This machine's processor, whatever else it has."""
    return cpu_cluster(read_host())


def cluster_from(machine: MachineReading, host: HostReading, environ: Mapping[str, str]) -> Cluster:
    """The GPUs where there is one to plan for, else the CPU and the reason."""
    chosen = selection(machine, environ)
    if not chosen.found:
        return cpu_cluster(host, why_no_gpu(machine, chosen, environ))
    return gpu_cluster(machine, chosen, host, list(notes(machine, chosen, environ)))


def read_host(root: Path = Path("/")) -> HostReading:
    """Linux's account of this machine; ``root`` is where ``proc`` and ``sys`` are."""
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.M))
    rooms = [
        (int(memory["MemTotal"]) * KIB, int(memory["MemAvailable"]) * KIB),
        *_control_group_rooms(root),
    ]
    processor = (root / "proc/cpuinfo").read_text()
    cpu = re.search(r"^model name\s*:\s*(.+)$", processor, re.M)
    total = min(limit for limit, _ in rooms)
    return HostReading(
        cpu_name=cpu[1].strip() if cpu is not None else f"{platform.machine()} CPU",
        cores=len(os.sched_getaffinity(0)),
        total_bytes=total,
        available_bytes=max(0, min(total, *(available for _, available in rooms))),
        multiplies_bf16=re.search(r"\b(avx512_bf16|amx_bf16)\b", processor) is not None,
    )


def _control_group_rooms(root: Path) -> Iterator[tuple[int, int]]:
    """Limit, and what is left below it, of each control group around this process."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
            files = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        path = PurePosixPath(name)
        for group in (path, *path.parents):
            yield from _room(base / group.relative_to("/"), *files)


def _room(group: Path, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    """Nothing where the group is out of sight, as a container's parents are, or has no limit.

    Cache that can be dropped counts as left, as it does in ``MemAvailable``.
    """
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        kept = re.search(rf"^{cache} (\d+)$", (group / "memory.stat").read_text(), re.M)
    except OSError:
        return
    if most.isdigit():
        yield int(most), int(most) - used + (int(kept[1]) if kept is not None else 0)
