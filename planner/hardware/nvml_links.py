"""What NVML says of the links between GPUs: NVLink, through a switch or not, and P2P."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pynvml

from planner.hardware.machine_readings import DeviceReading, PairReading
from planner.hardware.nvml_calls import Driver

P2P_READ = 0
"""NVML_P2P_CAPS_INDEX_READ of nvml.h, which pynvml 13.615 has as a tuple."""


@dataclass(frozen=True, slots=True)
class Links:
    """A GPU's NVLinks; none where it refuses the question."""

    all: int
    active: int
    bytes_per_s: int | None


def read_links(driver: Driver, handle: Any) -> Links:
    """Return how many NVLinks a GPU has, how many are active, and the rate of one."""
    states = _states(driver, handle)
    active = sum(states)
    return Links(len(states), active, _line_rate(driver, handle) if active else None)


def _states(driver: Driver, handle: Any) -> list[int]:
    states: list[int] = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = driver.ask("nvmlDeviceGetNvLinkState", handle, link)
        if state is None:
            break
        states.append(int(state))
    return states


def _line_rate(driver: Driver, handle: Any) -> int | None:
    """Return bytes per second of one link in one direction; NVML reports MB/s."""
    fields = [pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON]
    values = driver.ask("nvmlDeviceGetFieldValues", handle, fields)
    if values is None or values[0].nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    return int(values[0].value.uiVal) * 10**6 or None


def read_pairs(
    driver: Driver, devices: Sequence[DeviceReading], handles: Mapping[int, Any]
) -> Iterator[PairReading]:
    """Yield what joins each pair of GPUs."""
    if len(devices) < 2:
        return
    buses = {each.index: _bus(driver, handles[each.index]) for each in devices}
    remotes = {each.index: _remotes(driver, each, handles[each.index]) for each in devices}
    for one, other in combinations(devices, 2):
        both = handles[one.index], handles[other.index]
        readable = driver.ask("nvmlDeviceGetP2PStatus", *both, P2P_READ)
        yield PairReading(
            one=one.index,
            other=other.index,
            nvlinks=_between(driver, one, other, both, remotes, buses),
            through_switch="switch" in (remotes[one.index] or ()),
            p2p=None if readable is None else readable == pynvml.NVML_P2P_STATUS_OK,
        )


def _bus(driver: Driver, handle: Any) -> bytes | None:
    info = driver.ask("nvmlDeviceGetPciInfo_v3", handle)
    return None if info is None else bytes(_text(info.busId))


def _text(bus_id: Any) -> bytes:
    return bus_id.encode() if isinstance(bus_id, str) else bus_id


def _remotes(driver: Driver, device: DeviceReading, handle: Any) -> Counter[bytes | str] | None:
    """Return the other end of each active link: a bus address, or a switch."""
    ends: Counter[bytes | str] = Counter()
    for link in range(device.card_nvlinks):
        if driver.ask("nvmlDeviceGetNvLinkState", handle, link) != 1:
            continue
        kind = driver.ask("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
        if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            return Counter({"switch": device.nvlinks})  # then all lead to switches
        info = driver.ask("nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
        if info is None:
            return None
        ends[_text(info.busId)] += 1
    return ends


def _between(
    driver: Driver,
    one: DeviceReading,
    other: DeviceReading,
    both: tuple[Any, Any],
    remotes: Mapping[int, Counter[bytes | str] | None],
    buses: Mapping[int, bytes | None],
) -> int | None:
    """Return the NVLinks of a pair; where ends are hidden, as in a virtual machine, all that both
    have."""
    most = min(one.nvlinks, other.nvlinks)
    if most == 0:
        return 0
    ends, bus = remotes[one.index], buses[other.index]
    if ends is not None and "switch" in ends:
        return most
    if ends is not None and bus is not None:
        return ends[bus]
    joined = driver.ask("nvmlDeviceGetP2PStatus", *both, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    if joined is None:
        return None
    return most if joined == pynvml.NVML_P2P_STATUS_OK else 0
