"""Notes on the GPUs that a plan is for, a sentence for each."""

import re
from collections.abc import Iterator, Sequence

from planner.base.phrases import Joined, Phrase
from planner.base.units import format_gib
from planner.hardware.cards import find_card
from planner.hardware.condition_notes import condition_notes
from planner.hardware.gpu_subsets import Subset, better_subset
from planner.hardware.machine import Selection, UsableGpu
from planner.hardware.machine_readings import DeviceReading, Machine
from planner.hardware.software_notes import software_notes

NOTEWORTHY_SHARE = 0.01
"""Share of a card below which memory is not worth a sentence: a desktop, rounding."""


def why_no_gpu(machine: Machine, chosen: Selection) -> str:
    """Return why the plan is for the CPU, and how to name a card instead."""
    nvml = machine.nvml
    reason: str = Phrase("No NVIDIA GPU was found")
    if nvml.problem is not None:
        reason = Phrase(nvml.problem)
    elif nvml.devices and not chosen.selected:
        shown = machine.environment.get("CUDA_VISIBLE_DEVICES")
        reason = Phrase("CUDA_VISIBLE_DEVICES={shown} leaves no GPU of this machine", shown=shown)
    elif chosen.shown:
        reason = Phrase("NVML does not report the memory of {name}", name=chosen.shown[0].name)
    elif chosen.selected:
        reason = Phrase("MIG mode is on and no slice has been made")
    elif nvml.lost:
        reason = " ".join(nvml.lost).removesuffix(".")
    elif nvml.failed:
        reason = Phrase("NVML failed: {failed}", failed=nvml.failed[0])
    return Phrase(
        "{reason}, so this is a plan for the CPU; for a card, name it: --gpus rtx-4090.",
        reason=reason,
    )


def notes(machine: Machine, chosen: Selection, command: str) -> Iterator[str]:
    """Yield every note on a machine; ``command`` is what a proposal of other GPUs repeats."""
    yield from machine.nvml.lost
    yield from _failure_notes(machine)
    yield from _order_notes(machine)
    yield from _slice_notes(chosen)
    yield from _difference_notes(chosen, command)
    yield from _memory_notes(chosen)
    yield from _speed_notes(chosen)
    yield from condition_notes(machine.nvml, chosen)
    yield from software_notes(machine, chosen)


def _failure_notes(machine: Machine) -> Iterator[str]:
    failed = machine.nvml.failed
    if failed:
        more = Phrase(" and {number} more", number=len(failed) - 1) if len(failed) > 1 else ""
        yield Phrase(
            "NVML failed at {failed}{more}: what it could not report is left out.",
            failed=failed[0],
            more=more,
        )


def _order_notes(machine: Machine) -> Iterator[str]:
    shown = machine.environment.get("CUDA_VISIBLE_DEVICES", "")
    by_index = re.match(r"\s*\+?[0-9]", shown) is not None
    in_bus_order = machine.environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if by_index and not in_bus_order and len({each.name for each in machine.nvml.devices}) > 1:
        yield (
            Phrase(
                "The GPUs differ and CUDA numbers the fastest first, by a rule that it does "
                "not publish: to be sure of the indices in CUDA_VISIBLE_DEVICES, set "
                "CUDA_DEVICE_ORDER=PCI_BUS_ID."
            )
        )


def _slice_notes(chosen: Selection) -> Iterator[str]:
    if not chosen.shown[0].is_slice:
        return
    slices = sum(each.is_slice or len(each.slices) for each in chosen.selected)
    whole = sum(not each.is_slice and not each.mig_enabled for each in chosen.selected)
    unused = []
    if slices > 1:
        unused.append(Phrase("{number} more MIG {number[slice|slices]}", number=slices - 1))
    if whole:
        unused.append(Phrase("{number} whole {number[GPU|GPUs]}", number=whole))
    if unused:
        yield (
            Phrase(
                "CUDA shows a process one MIG slice and no other device, so the plan is for "
                "the first one; not used: {unused}.",
                unused=Joined(" and ", unused),
            )
        )


def _difference_notes(chosen: Selection, command: str) -> Iterator[str]:
    whole = Subset(members=chosen.gpus)
    names = {each.device.name for each in chosen.gpus}
    weakest = where(chosen.weakest.device)
    if len(names) > 1:
        yield (
            Phrase(
                "The GPUs differ: all are planned as the weakest. {weakest} has the least "
                "free memory{slowest}; {idle} of the others stay idle.",
                weakest=weakest,
                slowest=_slowest(chosen),
                idle=_idle(whole),
            )
        )
    elif _is_noteworthy(whole.idle_bytes, chosen.weakest):
        yield (
            Phrase(
                "The GPUs differ in free memory: all are planned as {weakest}, which has the "
                "least; {idle} GiB of the others stay idle.",
                weakest=weakest,
                idle=format_gib(whole.idle_bytes),
            )
        )
    else:
        return
    subset = better_subset(chosen.gpus)
    if subset is not None:
        yield _proposal(subset, whole, command)


def _slowest(chosen: Selection) -> str:
    if chosen.slowest is None:
        return ""
    return Phrase(" and {name} is the slowest", name=chosen.slowest.name)


def _idle(subset: Subset) -> str:
    flops = subset.idle_flops_per_s
    memory = f"{format_gib(subset.idle_bytes)} GiB"
    return Joined(" and ", [memory, _tflops(flops)]) if flops else memory


def _proposal(subset: Subset, whole: Subset, command: str) -> str:
    indices = subset.indices
    some, everything = _total(subset), _total(whole)
    visible = f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={','.join(map(str, indices))}"
    command = f"{visible} {command}"
    if len(indices) == 1:
        return Phrase(
            "GPU {index} alone counts as {some}, all as {everything}. To use it alone, for plan "
            "and launch: {command}",
            index=indices[0],
            some=some,
            everything=everything,
            command=command,
        )
    return Phrase(
        "GPUs {indices} alone count as {some}, all as {everything}. To use these alone, for plan "
        "and launch: {command}",
        indices=Joined(" and " if len(indices) == 2 else ", ", map(str, indices)),
        some=some,
        everything=everything,
        command=command,
    )


def _total(subset: Subset) -> str:
    memory, flops = f"{format_gib(subset.num_bytes)} GiB", subset.flops_per_s
    if flops is None:
        return memory
    return Phrase("{memory} at {rate}", memory=memory, rate=_tflops(flops))


def _tflops(flops_per_s: int) -> str:
    return f"{flops_per_s / 1e12:,.0f} TFLOPS"


def _memory_notes(chosen: Selection) -> Iterator[str]:
    busy = [each for each in chosen.gpus if _is_noteworthy(each.accelerator.in_use_bytes, each)]
    for each in busy:
        if each.has_hosts_memory:
            continue
        in_use = format_gib(each.accelerator.in_use_bytes)
        yield Phrase(
            "{in_use} GiB of {where} is in use{by_whom}.",
            in_use=in_use,
            where=where(each.device),
            by_whom=by_whom(each.device),
        )
    planned = [each.device for each in chosen.gpus]
    for device in chosen.shown:
        if device not in planned:
            yield Phrase(
                "{where} is left out: NVML does not report its memory.", where=where(device)
            )
    yield from _unread_memory_notes(chosen.gpus)


def _unread_memory_notes(gpus: Sequence[UsableGpu]) -> Iterator[str]:
    blind = [each for each in gpus if each.device.free_bytes is None]
    if any(each.has_hosts_memory for each in blind):
        yield Phrase("GPU and host share one memory: what is available on the host counts as free.")
    elif blind:
        yield Phrase("NVML does not report how much memory is free: all of it counts as free.")


def _is_noteworthy(num_bytes: int, gpu: UsableGpu) -> bool:
    return num_bytes > NOTEWORTHY_SHARE * gpu.accelerator.capacity_bytes


def where(device: DeviceReading) -> str:
    """Return the words for a device: its index, or that it is the slice."""
    return Phrase("the MIG slice") if device.is_slice else f"GPU {device.index}"


def by_whom(device: DeviceReading) -> str:
    """Return who holds memory of a device, in words."""
    if device.holders is None:
        return Phrase("; NVML does not report by whom")
    if not device.holders:
        return Phrase(" by processes that cannot be seen from here")
    largest_first = sorted(device.holders, key=lambda holder: -(holder.used_bytes or 0))
    names = []
    for holder in largest_first:
        number = Phrase("process {pid}", pid=holder.pid) if holder.pid is not None else ""
        size = f"{format_gib(holder.used_bytes)} GiB" if holder.used_bytes is not None else ""
        known = [holder.name or number or Phrase("a process"), number if holder.name else "", size]
        who, *more = filter(None, known)
        names.append(Phrase("{who} ({more})", who=who, more=Joined(", ", more)) if more else who)
    return Phrase(" by {names}", names=Joined(", ", names))


def _speed_notes(chosen: Selection) -> Iterator[str]:
    for each in {each.device.name: each for each in chosen.gpus if each.is_resized}.values():
        assert each.card is not None
        usual = find_card(each.device.card_name, None)
        preset = Phrase("the preset's size")
        if usual is not None:
            preset = Phrase("the preset's {gib}", gib=usual.nominal_gib)
        size = format_gib(each.accelerator.capacity_bytes)
        yield (
            Phrase(
                "{name} has {size} GiB here instead of {preset}: memory is this machine's "
                "own, rates are those of {card}.",
                name=each.device.name,
                size=size,
                preset=preset,
                card=each.card.name,
            )
        )
    unknown = {each.device.name: each for each in chosen.gpus if each.card is None}
    for name, each in unknown.items():
        size = format_gib(each.accelerator.capacity_bytes)
        yield Phrase(
            "No preset describes {name} with {size} GiB: its speed is unknown.",
            name=name,
            size=size,
        )
    if any(each.compute_capability is None for each in chosen.gpus):
        yield Phrase(
            "NVML does not report the compute capability: fp16 is planned instead of bf16."
        )
