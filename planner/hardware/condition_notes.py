"""Notes on what holds GPUs and their links below what they could do, a sentence for each."""

from collections.abc import Iterator, Sequence

from planner.base.phrases import Joined, Phrase
from planner.hardware.cluster import pcie_bytes_per_s
from planner.hardware.machine import Selection, UsableGpu, pair_links
from planner.hardware.machine_readings import DeviceReading, NvmlReading, PcieReading


def condition_notes(nvml: NvmlReading, chosen: Selection) -> Iterator[str]:
    """Yield a note for each limit: power, throttling, memory errors, slow slots, missing links."""
    yield from _power_notes(chosen.gpus)
    devices = [each.device for each in chosen.gpus]
    yield from _throttling_notes(devices)
    yield from _error_notes(devices)
    yield from _slot_notes(devices)
    yield from _link_notes(nvml, chosen)


def names(devices: Sequence[DeviceReading]) -> str:
    """Return ``GPU 0`` or ``GPUs 0, 2``."""
    indices = ", ".join(str(device.index) for device in devices)
    return f"GPU{'s' if len(devices) > 1 else ''} {indices}"


def _power_notes(gpus: Sequence[UsableGpu]) -> Iterator[str]:
    limited: dict[tuple[int, int], list[DeviceReading]] = {}
    for each in gpus:
        limit = each.device.power_limit_watts
        usual = usual_power_watts(each)
        # Makers' own models differ from the datasheet by a few percent.
        if limit and usual and limit < 0.95 * usual:
            limited.setdefault((limit, usual), []).append(each.device)
    for (limit, usual), devices in limited.items():
        yield (
            Phrase(
                "Power is limited to {limit} of {usual} W on {names}: the speed shown does "
                "not account for that.",
                limit=limit,
                usual=usual,
                names=names(devices),
            )
        )


def usual_power_watts(gpu: UsableGpu) -> int | None:
    """Return the power limit that this board's maker set, else the datasheet's; None where neither
    is known."""
    datasheet = gpu.card.tdp_watts if gpu.card is not None else None
    return gpu.device.default_power_limit_watts or datasheet


def _throttling_notes(devices: Sequence[DeviceReading]) -> Iterator[str]:
    """Yield notes on throttling; a busy card runs at its power cap, so only what is worse is
    named."""
    held: dict[tuple[str, ...], list[DeviceReading]] = {}
    for device in devices:
        reasons = tuple(reason for reason in device.throttling if reason != "power cap")
        if reasons:
            held.setdefault(reasons, []).append(device)
    for reasons, those in held.items():
        gpus, why = names(those), Joined(", ", map(Phrase, reasons))
        if len(those) > 1:
            yield Phrase("{gpus} are throttled now: {reasons}.", gpus=gpus, reasons=why)
        else:
            yield Phrase("{gpus} is throttled now: {reasons}.", gpus=gpus, reasons=why)


def _error_notes(devices: Sequence[DeviceReading]) -> Iterator[str]:
    for device in devices:
        if device.uncorrected_errors:
            yield (
                Phrase(
                    "GPU {index} has had {errors} uncorrected memory {errors[error|errors]} since "
                    "the driver was loaded: have it checked before a long run.",
                    index=device.index,
                    errors=device.uncorrected_errors,
                )
            )


def _slot_notes(devices: Sequence[DeviceReading]) -> Iterator[str]:
    slow: dict[str, list[DeviceReading]] = {}
    for device in devices:
        shortfall = slot_shortfall(device.pcie)
        if shortfall is not None:
            slow.setdefault(shortfall, []).append(device)
    for shortfall, those in slow.items():
        yield Phrase(
            "The slot of {names} is slow: {shortfall}.", names=names(those), shortfall=shortfall
        )


def slot_shortfall(pcie: PcieReading | None) -> str | None:
    """Return what a degraded slot has instead of what the card could use; None where it has all."""
    if pcie is None or pcie.generation is None or pcie.lanes is None:
        return None
    generation = pcie.card_generation or pcie.generation
    lanes = pcie.card_lanes or pcie.lanes
    is_rate = pcie_bytes_per_s(pcie.generation, pcie.lanes)
    could = pcie_bytes_per_s(generation, lanes)
    if is_rate is None or could is None or is_rate >= could:
        return None
    return Phrase(
        "PCIe {generation}.0 x{lanes} of {most_generation}.0 x{most_lanes}, {rate:.1f} of "
        "{most_rate:.1f} GB/s",
        generation=pcie.generation,
        lanes=pcie.lanes,
        most_generation=generation,
        most_lanes=lanes,
        rate=is_rate / 1e9,
        most_rate=could / 1e9,
    )


def _link_notes(nvml: NvmlReading, chosen: Selection) -> Iterator[str]:
    read = pair_links(nvml)
    nvlinks = {each.device.index: each.device.nvlinks for each in chosen.gpus}
    links = [
        read.get((one, other)) if nvlinks[one] and nvlinks[other] else 0
        for one, other in chosen.pairs
    ]
    if None in links:
        yield Phrase("NVML does not report which GPUs NVLink joins: PCIe is assumed.")
    elif any(links) and not all(links):
        yield Phrase(
            "NVLink does not join all the GPUs: the slowest pair decides, and that is on PCIe."
        )
    elif any(links):
        yield from _missing_link_notes(chosen)


def _missing_link_notes(chosen: Selection) -> Iterator[str]:
    by_links = sorted((each.device for each in chosen.gpus), key=lambda each: each.nvlinks)
    fewest, most = by_links[0], by_links[-1]
    if fewest.nvlinks < most.nvlinks:
        yield (
            Phrase(
                "GPU {index} has {links} active NVLinks and GPU {other} has {most}: "
                "the smaller number decides (see nvidia-smi nvlink --status).",
                index=fewest.index,
                links=fewest.nvlinks,
                other=most.index,
                most=most.nvlinks,
            )
        )
