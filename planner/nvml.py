"""NVML's answers, asked through pynvml; what a driver or a device refuses is left out."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import pynvml

from planner.gpu import Holder, pcie_bytes_per_s
from planner.machine import DeviceReading, MachineReading


def read_nvml() -> MachineReading:
    """One look at all GPUs of this machine."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return MachineReading(problem=_why_not(error))
    try:
        return _read_machine()
    finally:
        _ask(pynvml.nvmlShutdown)


def _why_not(error: Any) -> str:
    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "There is no NVIDIA driver (libnvidia-ml.so.1) here",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but not loaded",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "The NVIDIA driver's library and kernel module are of different versions (after an "
            "update, restart the machine)"
        ),
    }
    return known.get(error.value, f"The NVIDIA driver does not answer ({error})")


def _ask(call: Callable[..., Any], *arguments: object) -> Any:
    """The call's answer, or nothing where this driver or this device has none."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _read_machine() -> MachineReading:
    handles: dict[int, Any] = {}
    lost = []
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        try:
            handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            lost.append(f"GPU {index} does not answer ({error}).")
    devices = tuple(_read_gpu(index, handle) for index, handle in handles.items())
    cuda = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return MachineReading(
        devices=devices,
        nvlink_pairs=_read_nvlink_pairs(
            {x.index: handles[x.index] for x in devices if x.num_nvlinks}
        ),
        driver_version=_ask(pynvml.nvmlSystemGetDriverVersion),
        cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        lost=tuple(lost),
    )


def _read_gpu(index: int, handle: Any) -> DeviceReading:
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    milliwatts = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    mig_mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    gpu = replace(
        _read_part(index, handle),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        power_limit_watts=milliwatts // 1000 if milliwatts else None,
        pcie_bytes_per_s=_read_pcie(handle),
        num_nvlinks=_count_nvlinks(handle),
        mig_enabled=mig_mode is not None and mig_mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )
    if not gpu.mig_enabled:
        return gpu
    slices = (
        replace(
            _read_part(index, slice_handle),
            card_name=gpu.name,
            compute_capability=gpu.compute_capability,
            is_slice=True,
        )
        for slice_handle in _slice_handles(handle)
    )
    return replace(gpu, slices=tuple(slices))


def _read_part(index: int, handle: Any) -> DeviceReading:
    """What a GPU and a MIG slice have in common."""
    # The second version tells the driver's own share apart; old drivers have only the first.
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    reserved = memory.reserved if memory is not None else 0
    if memory is None:
        memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    name = _ask(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    return DeviceReading(
        index=index,
        uuid=_ask(pynvml.nvmlDeviceGetUUID, handle) or "",
        name=name,
        card_name=name,
        total_bytes=memory.total if memory is not None else None,
        reserved_bytes=reserved,
        free_bytes=memory.free if memory is not None else None,
        holders=_read_holders(handle),
    )


def _read_holders(handle: Any) -> tuple[Holder, ...] | None:
    computing = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    drawing = _ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle)
    if computing is None and drawing is None:
        return None
    processes = {each.pid: each for each in [*(drawing or []), *(computing or [])]}
    return tuple(
        Holder(pid=each.pid, used_bytes=each.usedGpuMemory)
        for each in processes.values()
        if each.pid != os.getpid()
    )


def _slice_handles(handle: Any) -> Iterator[Any]:
    """Slices are numbered with gaps."""
    for number in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        slice_handle = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if slice_handle is not None:
            yield slice_handle


def _read_pcie(handle: Any) -> int | None:
    """The best generation, since an idle link slows down, with the lanes that are in use."""
    generation = _ask(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    lanes = _ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle) or _ask(
        pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle
    )
    return pcie_bytes_per_s(generation, lanes) if generation and lanes else None


def _count_nvlinks(handle: Any) -> int:
    """Active ones; a card without NVLink refuses the question."""
    active = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = _ask(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None:
            break
        active += state
    return active


def _read_nvlink_pairs(handles: Mapping[int, Any]) -> frozenset[tuple[int, int]] | None:
    nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    pairs = set()
    for one, other in combinations(sorted(handles), 2):
        status = _ask(pynvml.nvmlDeviceGetP2PStatus, handles[one], handles[other], nvlink)
        if status is None:
            return None
        if status == pynvml.NVML_P2P_STATUS_OK:
            pairs.add((one, other))
    return frozenset(pairs)
