"""Memory of a process, as Linux tells it."""

from pathlib import Path

_KIB = 2**10


STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    return status_bytes("VmRSS")


def status_bytes(field: str, pid: int | None = None) -> int:
    """What the kernel says of a process, or of this one; proc_pid_status(5) names the fields."""
    status = STATUS if pid is None else Path(f"/proc/{pid}/status")
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * _KIB
    raise KeyError(f"{status} has no {field}")
