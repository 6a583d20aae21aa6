"""NVML's answers, read through pynvml; what a driver or a device refuses is left out."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pynvml
from msgspec import structs, to_builtins

from planner.base.phrases import Phrase
from planner.hardware.machine_readings import (
    DeviceReading,
    Holder,
    NvmlReading,
    PairReading,
    PcieReading,
)
from planner.hardware.nvml_calls import DeviceLostError, Driver
from planner.hardware.nvml_links import read_links, read_pairs

THROTTLE_REASONS = {
    0x02: Phrase("clocks set by a user"),
    0x04: Phrase("power cap"),
    0x08: Phrase("hardware slowdown"),
    0x10: Phrase("sync boost"),
    0x20: Phrase("heat (driver)"),
    0x40: Phrase("heat (hardware)"),
    0x80: Phrase("power brake"),
}
"""Reasons for throttling, by bit; an idle GPU and display clocks hold nothing back.

read: nvml.h of CUDA 13, nvmlClocksEventReason*.
"""


def read_nvml() -> NvmlReading:
    """Return one reading of all GPUs of this machine, or the reason why there are none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return NvmlReading(problem=str(_why_not(error)))
    driver = Driver()
    try:
        return _read_machine(driver)
    finally:
        driver.ask("nvmlShutdown")


def _why_not(error: Any) -> str:
    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: Phrase(
            "There is no NVIDIA driver (libnvidia-ml.so.1) here"
        ),
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: Phrase(
            "The NVIDIA driver is installed but not loaded"
        ),
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: Phrase(
            "The NVIDIA driver's library and kernel module are of different versions (after an "
            "update, restart the machine)"
        ),
    }
    return known.get(error.value, f"The NVIDIA driver does not answer ({error})")


def _read_machine(driver: Driver) -> NvmlReading:
    handles: dict[int, Any] = {}
    devices: list[DeviceReading] = []
    lost = []
    for index in range(driver.ask("nvmlDeviceGetCount") or 0):
        try:
            handle = driver.insist("nvmlDeviceGetHandleByIndex", index)
            devices.append(_read_gpu(driver, index, handle))
        except DeviceLostError as error:
            lost.append(f"GPU {index} does not answer ({error}).")
        else:
            handles[index] = handle
    cuda = driver.ask("nvmlSystemGetCudaDriverVersion_v2")
    return NvmlReading(
        devices=tuple(devices),
        pairs=_read_pairs(driver, devices, handles),
        driver_version=driver.ask("nvmlSystemGetDriverVersion"),
        cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        lost=tuple(lost),
        failed=tuple(driver.failed),
        unsupported=tuple(sorted(driver.unsupported)),
    )


def _read_pairs(
    driver: Driver, devices: Sequence[DeviceReading], handles: dict[int, Any]
) -> tuple[PairReading, ...]:
    """Return the pairs of whole GPUs; slices have no links."""
    whole = [device for device in devices if not device.mig_enabled]
    try:
        return tuple(read_pairs(driver, whole, handles))
    except DeviceLostError:
        return ()


def _read_gpu(driver: Driver, index: int, handle: Any) -> DeviceReading:
    capability = driver.ask("nvmlDeviceGetCudaComputeCapability", handle)
    mig_mode = driver.ask("nvmlDeviceGetMigMode", handle)
    links = read_links(driver, handle)
    gpu = structs.replace(
        _read_part(driver, index, handle),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        pcie=_read_pcie(driver, handle),
        numa_node=_read_numa_node(driver, handle),
        mig_enabled=bool(mig_mode) and mig_mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
        nvlinks=links.active,
        card_nvlinks=links.all,
        nvlink_bytes_per_s=links.bytes_per_s,
        **_read_rates(driver, handle),
        **_read_condition(driver, handle),
    )
    if not gpu.mig_enabled:
        return gpu
    slices = (
        structs.replace(
            _read_part(driver, index, slice_handle),
            card_name=gpu.name,
            compute_capability=gpu.compute_capability,
            is_slice=True,
        )
        for slice_handle in _slice_handles(driver, handle)
    )
    return structs.replace(gpu, slices=tuple(slices))


def _read_part(driver: Driver, index: int, handle: Any) -> DeviceReading:
    """Return what a GPU and a MIG slice have in common."""
    # The second version tells the driver's own share apart; old drivers have only the first.
    memory = driver.ask("nvmlDeviceGetMemoryInfo", handle, pynvml.nvmlMemory_v2)
    reserved = memory.reserved if memory is not None else 0
    if memory is None:
        memory = driver.ask("nvmlDeviceGetMemoryInfo", handle)
    name = driver.ask("nvmlDeviceGetName", handle) or "NVIDIA GPU"
    return DeviceReading(
        index=index,
        uuid=driver.ask("nvmlDeviceGetUUID", handle) or "",
        name=name,
        card_name=name,
        total_bytes=memory.total if memory is not None else None,
        reserved_bytes=reserved,
        free_bytes=memory.free if memory is not None else None,
        holders=_read_holders(driver, handle),
    )


def _read_holders(driver: Driver, handle: Any) -> tuple[Holder, ...] | None:
    computing = driver.ask("nvmlDeviceGetComputeRunningProcesses", handle)
    drawing = driver.ask("nvmlDeviceGetGraphicsRunningProcesses", handle)
    if computing is None and drawing is None:
        return None
    processes = {each.pid: each for each in [*(drawing or []), *(computing or [])]}
    return tuple(
        Holder(pid=each.pid, name=_program(driver, each.pid), used_bytes=each.usedGpuMemory)
        for each in processes.values()
        if each.pid != os.getpid()
    )


def _program(driver: Driver, pid: int) -> str | None:
    """Return the name of a program without path and arguments, which are private."""
    words = (driver.ask("nvmlSystemGetProcessName", pid) or "").split()
    name = words[0].rsplit("/", 1)[-1][:32] if words else ""
    return name if name.isprintable() and name else None


def _slice_handles(driver: Driver, handle: Any) -> Iterator[Any]:
    """Yield the handles of slices, which are numbered with gaps."""
    for number in range(driver.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        slice_handle = driver.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        if slice_handle is not None:
            yield slice_handle


def _read_pcie(driver: Driver, handle: Any) -> PcieReading | None:
    reading = PcieReading(
        generation=driver.ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        card_generation=driver.ask("nvmlDeviceGetGpuMaxPcieLinkGeneration", handle),
        generation_now=driver.ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        lanes=driver.ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
        card_lanes=driver.ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
    )
    return None if set(to_builtins(reading).values()) == {None} else reading


def _read_numa_node(driver: Driver, handle: Any) -> int | None:
    """Return the first node of the set of nodes; 1,024 of them are the kernel's limit."""
    words = driver.ask("nvmlDeviceGetMemoryAffinity", handle, 16, pynvml.NVML_AFFINITY_SCOPE_NODE)
    nodes = (64 * at + _lowest_bit(word) for at, word in enumerate(words or ()) if word)
    return next(nodes, None)


def _lowest_bit(word: int) -> int:
    return (word & -word).bit_length() - 1


def _read_rates(driver: Driver, handle: Any) -> dict[str, int | None]:
    """Return fp32 operations and memory bytes per second; CUDA samples, deviceQuery: twice the
    memory clock (MHz) by the bus (bits)."""
    cores = driver.ask("nvmlDeviceGetNumGpuCores", handle)
    core_mhz = driver.ask("nvmlDeviceGetMaxClockInfo", handle, pynvml.NVML_CLOCK_SM)
    bus_bits = driver.ask("nvmlDeviceGetMemoryBusWidth", handle)
    memory_mhz = driver.ask("nvmlDeviceGetMaxClockInfo", handle, pynvml.NVML_CLOCK_MEM)
    bandwidth = 2 * memory_mhz * 10**6 * bus_bits // 8 if memory_mhz and bus_bits else None
    return {
        "fp32_flops_per_s": 2 * cores * core_mhz * 10**6 if cores and core_mhz else None,
        "memory_bandwidth_bytes_per_s": bandwidth,
    }


def _read_condition(driver: Driver, handle: Any) -> dict[str, object]:
    limit = driver.ask("nvmlDeviceGetEnforcedPowerLimit", handle)
    default = driver.ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)
    # Drivers before 535 have the call by its older name only.
    reasons = driver.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:
        reasons = driver.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    ecc = driver.ask("nvmlDeviceGetEccMode", handle)
    on = ecc is not None and ecc[0] == pynvml.NVML_FEATURE_ENABLED
    uncorrected = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    return {
        "power_limit_watts": limit // 1000 if limit else None,
        "default_power_limit_watts": default // 1000 if default else None,
        "throttling": tuple(
            str(name) for bit, name in THROTTLE_REASONS.items() if (reasons or 0) & bit
        ),
        "ecc_enabled": on if ecc is not None else None,
        "uncorrected_errors": (
            driver.ask("nvmlDeviceGetTotalEccErrors", handle, *uncorrected) if on else None
        ),
    }
