"""Linux's account of the machine around the GPUs, and the torch that is installed on it."""

import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from planner.base.units import KIB, ceil_div
from planner.hardware.machine_readings import HostReading, TorchReading


def read_host(root: Path = Path("/"), output: Path = Path()) -> HostReading:
    """Return what Linux reports of the host; ``root`` holds ``proc`` and ``sys``, ``output`` is
    where a run will be written."""
    machine_bytes, machine_available_bytes = _memory(root)
    rooms = [
        (machine_bytes, machine_available_bytes),
        *(room for group in _control_groups(root, "memory") for room in _room(*group)),
    ]
    processor = (root / "proc/cpuinfo").read_text()
    cpu = re.search(r"^model name\s*:\s*(.+)$", processor, re.M)
    total = min(limit for limit, _ in rooms)
    return HostReading(
        cpu_name=cpu[1].strip() if cpu is not None else f"{platform.machine()} CPU",
        cores=_cores(root),
        machine_cores=os.cpu_count(),
        total_bytes=total,
        available_bytes=max(0, min(total, *(available for _, available in rooms))),
        machine_bytes=machine_bytes,
        shm_bytes=_file_system_bytes(root / "dev/shm", free=False),
        disk_free_bytes=_file_system_bytes(output, free=True),
        multiplies_bf16=re.search(r"\b(avx512_bf16|amx_bf16)\b", processor) is not None,
    )


def _memory(root: Path) -> tuple[int, int]:
    """Return the bytes of the machine's memory and those available, without what is GPUs' own."""
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.M))
    total, available = int(memory["MemTotal"]) * KIB, int(memory["MemAvailable"]) * KIB
    for of_gpu, free in _gpu_memory(root):
        total, available = total - of_gpu, available - free
    return max(0, total), max(0, available)


def _gpu_memory(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the size of every GPU's memory that Linux counts among the machine's, and its free
    part: the driver of GH200 and GB200 brings it online as a NUMA node.

    read: open-gpu-kernel-modules, kernel-open/nvidia/nv-procfs.c, nv_procfs_read_numa_status.
    """
    for status in sorted((root / "proc/driver/nvidia/gpus").glob("*/numa_status")):
        online = re.search(r"^Node:\s+(\d+)\nStatus:\s+online$", status.read_text(), re.M)
        node = root / f"sys/devices/system/node/node{online[1]}/meminfo" if online else None
        if node is not None and node.is_file():
            sizes = dict(re.findall(r"^Node \d+ (\w+):\s+(\d+) kB$", node.read_text(), re.M))
            yield int(sizes["MemTotal"]) * KIB, int(sizes["MemFree"]) * KIB


def _file_system_bytes(path: Path, *, free: bool) -> int | None:
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return stat.f_frsize * (stat.f_bavail if free else stat.f_blocks)


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the groups around this process, innermost first, and whether they are of version 2."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        path = PurePosixPath(name)
        for group in (path, *path.parents):
            yield base / group.relative_to("/"), controllers == ""


def _room(group: Path, is_version_2: bool) -> Iterator[tuple[int, int]]:
    """Yield a group's limit and what is left below it, in bytes; none for a group without a limit
    or out of sight, as a container's parents are.

    Cache that can be dropped counts as left, as it does in ``MemAvailable``.
    """
    limit, usage, cache = (
        ("memory.max", "memory.current", "inactive_file")
        if is_version_2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        kept = re.search(rf"^{cache} (\d+)$", (group / "memory.stat").read_text(), re.M)
    except OSError:
        return
    if most.isdigit():
        yield int(most), int(most) - used + (int(kept[1]) if kept is not None else 0)


def _cores(root: Path) -> int:
    """Return the cores by affinity, or the share of time that a control group leaves, rounded
    up."""
    shares = (_share(*group) for group in _control_groups(root, "cpu"))
    return min(len(os.sched_getaffinity(0)), *(share for share in shares if share), 2**31)


def _share(group: Path, is_version_2: bool) -> int | None:
    """Return quota over period: kernel documentation, cgroup-v2 ``cpu.max``, and sched-bwc of
    v1."""
    try:
        if is_version_2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return None
    return max(1, ceil_div(int(quota), int(period))) if quota.isdigit() else None


def read_torch() -> TorchReading | None:
    """Return the installed torch as its own text names it: to import it would take longer than to
    plan. None where none is installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "version.py"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    facts = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*= *['\"]([^'\"]+)['\"]", text, re.M))
    version = facts.get("__version__")
    if version is None:
        return None
    return TorchReading(version=version, cuda=facts.get("cuda"), hip=facts.get("hip"))
