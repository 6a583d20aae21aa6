"""Which GPUs CUDA shows to a process, and in what order."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from planner.readings import DeviceReading


def select(
    devices: Sequence[DeviceReading], environ: Mapping[str, str]
) -> tuple[DeviceReading, ...]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order.

    read: torch/cuda/__init__.py of torch 2.13, ``_parse_visible_devices`` and
    ``_transform_uuid_to_ordinals``. The first entry says of what kind all are; an entry that
    matches nothing, or more than one device, ends the list; a device named twice hides all.
    """
    ordered = cuda_order(devices, environ)
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return ordered
    entries = [entry.strip() for entry in text.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if entries[0].startswith(prefix)), None)
    candidates: Sequence[DeviceReading] = ordered
    if kind == "MIG-":
        candidates = [each for device in ordered for each in device.slices]
    chosen: list[DeviceReading] = []
    for entry in entries:
        match = _by_index(ordered, entry) if kind is None else _by_uuid(candidates, entry, kind)
        if match is None:
            break
        if match in chosen:
            return ()
        chosen.append(match)
    return tuple(chosen)


def cuda_order(
    devices: Sequence[DeviceReading], environ: Mapping[str, str]
) -> tuple[DeviceReading, ...]:
    """By bus where CUDA_DEVICE_ORDER says so, else the fastest first.

    read: CUDA C++ Programming Guide, "CUDA Environment Variables": by a simple heuristic, which
    is not published; fp32 rates stand for it here, and where one is unknown the bus decides.
    """
    by_bus = tuple(sorted(devices, key=lambda device: device.index))
    rates = {device.index: device.fp32_flops_per_s for device in by_bus}
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or None in rates.values():
        return by_bus
    return tuple(sorted(by_bus, key=lambda device: -(rates[device.index] or 0)))


def _by_uuid(devices: Sequence[DeviceReading], entry: str, kind: str) -> DeviceReading | None:
    matches = [each for each in devices if each.uuid.startswith(entry)]
    return matches[0] if entry.startswith(kind) and len(matches) == 1 else None


def _by_index(ordered: Sequence[DeviceReading], entry: str) -> DeviceReading | None:
    """CUDA reads the digits at the start, as C's ``strtoul`` does."""
    digits = re.match(r"\+?([0-9]{1,9})", entry)
    if digits is None:
        return None
    number = int(digits[1])
    by_bus = all(one.index < two.index for one, two in pairwise(ordered))
    if by_bus:  # a GPU that does not answer keeps its number
        return next((each for each in ordered if each.index == number), None)
    return ordered[number] if number < len(ordered) else None


def enumerable(selected: Sequence[DeviceReading]) -> tuple[DeviceReading, ...]:
    """What CUDA shows of them: all GPUs, or one MIG slice and nothing else.

    read: NVIDIA MIG User Guide, "CUDA Device Enumeration". A GPU in MIG mode is seen through
    its slices only.
    """
    parts = [
        part for device in selected for part in (device.slices if device.mig_enabled else (device,))
    ]
    slices = [part for part in parts if part.is_slice]
    return tuple(slices[:1] or parts)
