"""What a person should know of the machine that was found, a sentence each."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from planner.machine import DeviceReading, Found, MachineReading, Selection
from planner.units import format_gib

NOTEWORTHY_SHARE = 0.01
"""Memory below this share of a card is not worth a sentence: a desktop, rounding."""


def why_no_gpu(machine: MachineReading, chosen: Selection, environ: Mapping[str, str]) -> str:
    """Why the plan is for the CPU, and how to name a card instead."""
    reason = "No NVIDIA GPU was found"
    if machine.problem is not None:
        reason = machine.problem
    elif machine.devices and not chosen.selected:
        shown = environ.get("CUDA_VISIBLE_DEVICES")
        reason = f"CUDA_VISIBLE_DEVICES={shown} leaves no GPU of this machine"
    elif chosen.shown:
        reason = f"NVML does not tell the memory of {chosen.shown[0].name}"
    elif chosen.selected:
        reason = "MIG mode is on and no slice has been made"
    elif machine.lost:
        reason = " ".join(machine.lost).removesuffix(".")
    return f"{reason}, so this is a plan for the CPU; for a card, name it: --gpus rtx-4090."


def notes(machine: MachineReading, chosen: Selection, environ: Mapping[str, str]) -> Iterator[str]:
    yield from machine.lost
    yield from _order_notes(machine, environ)
    yield from _slice_notes(chosen)
    yield from _difference_notes(chosen)
    yield from _memory_notes(chosen)
    yield from _speed_notes(chosen)
    yield from _link_notes(machine, chosen)


def _order_notes(machine: MachineReading, environ: Mapping[str, str]) -> Iterator[str]:
    by_index = re.match(r"\s*\+?[0-9]", environ.get("CUDA_VISIBLE_DEVICES", "")) is not None
    in_bus_order = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if by_index and not in_bus_order and len({each.name for each in machine.devices}) > 1:
        yield (
            "The GPUs differ and CUDA numbers the fastest first, so the indices in "
            "CUDA_VISIBLE_DEVICES may mean other ones: set CUDA_DEVICE_ORDER=PCI_BUS_ID."
        )


def _slice_notes(chosen: Selection) -> Iterator[str]:
    if not chosen.shown[0].is_slice:
        return
    slices = sum(each.is_slice or len(each.slices) for each in chosen.selected)
    whole = sum(not each.is_slice and not each.mig_enabled for each in chosen.selected)
    unused = [f"{slices - 1} more MIG slice{'s' if slices > 2 else ''}"] if slices > 1 else []
    unused += [f"{whole} whole GPU{'s' if whole > 1 else ''}"] if whole else []
    if unused:
        yield (
            "CUDA shows a process one MIG slice and nothing beside it, so the plan is for the "
            f"first one; not used: {' and '.join(unused)}."
        )


def _difference_notes(chosen: Selection) -> Iterator[str]:
    weakest = chosen.weakest
    names = Counter(each.device.name for each in chosen.found)
    unused = sum(each.free_bytes - weakest.free_bytes for each in chosen.found)
    planned = (
        f"each is planned as {_where(weakest.device)}, which has the least free memory, and "
        f"{format_gib(unused)} GiB of the others is not used."
    )
    if len(names) > 1:
        cards = ", ".join(f"{count} x {name}" for name, count in names.items())
        yield f"The GPUs differ ({cards}): {planned}"
        if chosen.slowest is not None:
            yield f"Every step waits for the slowest GPU: all count as {chosen.slowest.name}."
    elif _is_noteworthy(unused, weakest):
        yield f"The GPUs differ in free memory: {planned}"


def _memory_notes(chosen: Selection) -> Iterator[str]:
    weakest = chosen.weakest
    if _is_noteworthy(weakest.accelerator.in_use_bytes, weakest):
        in_use = format_gib(weakest.accelerator.in_use_bytes)
        yield f"{in_use} GiB of {_where(weakest.device)} is in use{_by_whom(weakest.device)}."
    found = [each.device for each in chosen.found]
    for device in chosen.shown:
        if device not in found:
            yield f"{_where(device)} is left out: NVML does not tell its memory."
    if any(device.free_bytes is None for device in found):
        yield "NVML does not tell how much memory is free: all of it is counted as free."


def _is_noteworthy(num_bytes: int, found: Found) -> bool:
    return num_bytes > NOTEWORTHY_SHARE * found.accelerator.capacity_bytes


def _where(device: DeviceReading) -> str:
    return "the MIG slice" if device.is_slice else f"GPU {device.index}"


def _by_whom(device: DeviceReading) -> str:
    if device.holders is None:
        return "; NVML does not tell by whom"
    if not device.holders:
        return " by processes that cannot be seen from here"
    largest_first = sorted(device.holders, key=lambda holder: -(holder.used_bytes or 0))
    names = [
        f"process {holder.pid}"
        + (f" ({format_gib(holder.used_bytes)} GiB)" if holder.used_bytes is not None else "")
        for holder in largest_first
    ]
    return f" by {', '.join(names)}"


def _speed_notes(chosen: Selection) -> Iterator[str]:
    unknown = {each.device.name: each for each in chosen.found if each.card is None}
    for name, each in unknown.items():
        size = format_gib(each.accelerator.capacity_bytes)
        yield f"No preset is for {name} with {size} GiB: its speed is unknown."
    if any(each.device.compute_capability is None for each in unknown.values()):
        yield "NVML does not tell what the GPU can compute with: fp16 is planned, not bf16."
    limited = [
        (each.device.index, each.device.power_limit_watts, each.card.tdp_watts)
        for each in chosen.found
        if each.card is not None and _is_limited(each.device.power_limit_watts, each.card.tdp_watts)
    ]
    if limited:
        which = ", ".join(str(index) for index, _, _ in limited)
        _, limit, usual = limited[0]
        yield (
            f"Power is limited to {limit} of {usual} W on GPU {which}: the speed shown does not "
            "count with that."
        )


def _is_limited(limit_watts: int | None, usual_watts: int | None) -> bool:
    """Makers' own models differ by a few percent."""
    return bool(limit_watts and usual_watts and limit_watts < 0.95 * usual_watts)


def _link_notes(machine: MachineReading, chosen: Selection) -> Iterator[str]:
    pairs = chosen.pairs
    by_links = sorted(chosen.found, key=lambda each: each.device.num_nvlinks)
    fewest, most = by_links[0].device, by_links[-1].device
    if pairs and machine.nvlink_pairs is None:
        yield "NVML does not tell which GPUs NVLink joins: PCIe is assumed."
    elif machine.nvlink_pairs and not pairs <= machine.nvlink_pairs:
        yield "NVLink does not join all the GPUs: the slowest pair decides, and that is on PCIe."
    elif machine.nvlink_pairs and fewest.num_nvlinks < most.num_nvlinks:
        yield (
            f"GPU {fewest.index} has {fewest.num_nvlinks} active NVLinks and GPU {most.index} has "
            f"{most.num_nvlinks}: expect slower communication (see nvidia-smi nvlink --status)."
        )
