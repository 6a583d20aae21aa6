"""Memory of a process, as the Linux kernel reports it."""

from pathlib import Path

_KIB = 2**10
STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return status_bytes("VmRSS")


def status_bytes(field: str, pid: int | None = None) -> int:
    """Return a field of ``/proc/PID/status`` in bytes; proc_pid_status(5) names the fields.

    ``pid`` is None for this process. Raise ``OSError`` if the process has ended, and ``KeyError``
    if the kernel does not report the field.
    """
    status = STATUS if pid is None else Path(f"/proc/{pid}/status")
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * _KIB
    raise KeyError(f"{status} has no {field}")
