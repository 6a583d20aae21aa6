"""Which GPUs CUDA shows to a process, and in what order."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, takewhile

from planner.hardware.machine_readings import DeviceReading


def select(
    devices: Sequence[DeviceReading], environ: Mapping[str, str]
) -> tuple[DeviceReading, ...]:
    """Return the devices that CUDA_VISIBLE_DEVICES leaves, in its order.

    read: torch/cuda/__init__.py of torch 2.13, ``_parse_visible_devices``,
    ``_transform_uuid_to_ordinals`` and ``_device_count_nvml``. The start of the text decides the
    kind of all entries; an entry that matches no device, or more than one, ends the list; an entry
    or a device named twice hides all.
    """
    ordered = cuda_order(devices, environ)
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return ordered
    kind = next((prefix for prefix in ("GPU-", "MIG-") if text.startswith(prefix)), None)
    if kind is None:
        numbers = list(takewhile(lambda number: number >= 0, map(_number, text.split(","))))
        matches = [_by_index(ordered, number) for number in numbers]
        is_repeated = len(set(numbers)) < len(numbers)
    else:
        slices = [each for device in ordered for each in device.slices]
        names = list(takewhile(lambda name: name.startswith(kind), text.split(",")))
        matches = [_by_uuid(slices if kind == "MIG-" else ordered, name) for name in names]
        is_repeated = len(set(names)) < len(names)
    known = list(takewhile(lambda match: match is not None, matches))
    chosen = tuple(match for match in known if match is not None)
    if is_repeated or len({each.uuid or each.index for each in chosen}) < len(chosen):
        return ()
    return chosen


def cuda_order(
    devices: Sequence[DeviceReading], environ: Mapping[str, str]
) -> tuple[DeviceReading, ...]:
    """Return the devices by bus where CUDA_DEVICE_ORDER says so, else the fastest first.

    read: CUDA C++ Programming Guide, "CUDA Environment Variables": by a simple heuristic, which is
    not published; fp32 rates stand for it here, and where one is unknown the bus decides.
    """
    by_bus = tuple(sorted(devices, key=lambda device: device.index))
    rates = {device.index: device.fp32_flops_per_s for device in by_bus}
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or None in rates.values():
        return by_bus
    return tuple(sorted(by_bus, key=lambda device: -(rates[device.index] or 0)))


def _by_uuid(devices: Sequence[DeviceReading], name: str) -> DeviceReading | None:
    matches = [each for each in devices if each.uuid.startswith(name)]
    return matches[0] if len(matches) == 1 else None


def _number(entry: str) -> int:
    """Return the digits at the start as a number, as C's ``strtoul`` reads them; -1 without any."""
    digits = re.match(r"\+?([0-9]{1,9})", entry.strip())
    return int(digits[1]) if digits is not None else -1


def _by_index(ordered: Sequence[DeviceReading], number: int) -> DeviceReading | None:
    by_bus = all(one.index < two.index for one, two in pairwise(ordered))
    if by_bus:  # a GPU that does not answer keeps its number
        return next((each for each in ordered if each.index == number), None)
    return ordered[number] if number < len(ordered) else None


def enumerable(selected: Sequence[DeviceReading]) -> tuple[DeviceReading, ...]:
    """Return what CUDA shows of the devices: all GPUs, or one MIG slice and no other device.

    read: NVIDIA MIG User Guide, "CUDA Device Enumeration". A GPU in MIG mode is seen through its
    slices only.
    """
    parts = [
        part for device in selected for part in (device.slices if device.mig_enabled else (device,))
    ]
    slices = [part for part in parts if part.is_slice]
    return tuple(slices[:1] or parts)
