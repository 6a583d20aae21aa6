"""Gauges of a run's devices while it trains: memory, temperature and power."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pynvml

from launcher.run.process_memory import status_bytes
from planner.base.phrases import Phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One device or process at one moment; None is what is not reported."""

    name: str
    used_bytes: int | None
    """Memory in use: of a GPU by the driver, without its own share; of a process the resident."""
    peak_bytes: int | None
    """Most memory since the run began: by the kernel, or of all readings."""
    temperature_c: int | None = None
    power_watts: int | None = None


class Sensors(Protocol):
    """An object that reads gauges."""

    def read(self) -> list[Gauge]:
        """Return one gauge per device or process, in rank order."""


class ResidentSensors:
    """The memory of the ranks' processes, for a run without GPUs."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def read(self) -> list[Gauge]:
        """Return one gauge per process."""
        return [self._rank(rank, pid) for rank, pid in enumerate(self._pids)]

    def _rank(self, rank: int, pid: int) -> Gauge:
        name = Phrase("process") if len(self._pids) == 1 else Phrase("rank {rank}", rank=rank)
        try:
            used, peak = status_bytes("VmRSS", pid), status_bytes("VmHWM", pid)
        except (OSError, KeyError):  # it has ended
            return Gauge(name=name, used_bytes=None, peak_bytes=None)
        return Gauge(name=name, used_bytes=used, peak_bytes=peak)


class NvmlSensors:
    """The GPUs with these UUIDs, in the order of the ranks on this node."""

    def __init__(self, uuids: Sequence[str]) -> None:
        _answer(pynvml.nvmlInit)
        self._handles = [_handle(uuid) for uuid in uuids]
        self._peaks = [0] * len(uuids)

    def read(self) -> list[Gauge]:
        """Return one gauge per GPU."""
        return [self._gpu(index, handle) for index, handle in enumerate(self._handles)]

    def _gpu(self, index: int, handle: Any) -> Gauge:
        milliwatts = _answer(pynvml.nvmlDeviceGetPowerUsage, handle)
        used = _used_bytes(handle)
        self._peaks[index] = max(self._peaks[index], used or 0)
        return Gauge(
            name=f"GPU {index}",
            used_bytes=used,
            peak_bytes=self._peaks[index] or None,
            temperature_c=_answer(
                pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
            ),
            power_watts=None if milliwatts is None else milliwatts // 1000,
        )


def _handle(uuid: str) -> Any:
    """Return NVML's handle of a device by CUDA's UUID, which lacks a prefix; None if unknown."""
    for prefix in ("GPU-", "MIG-"):
        handle = _answer(pynvml.nvmlDeviceGetHandleByUUID, f"{prefix}{uuid}")
        if handle is not None:
            return handle
    return None


def _used_bytes(handle: Any) -> int | None:
    memory = _answer(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if memory is not None:
        return int(memory.total - memory.reserved - memory.free)
    memory = _answer(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if memory is None else int(memory.used)


def _answer(call: Callable[..., Any], *arguments: object) -> Any:
    """Return NVML's answer; None if the library, the driver or the device has none."""
    if None in arguments:
        return None
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None
