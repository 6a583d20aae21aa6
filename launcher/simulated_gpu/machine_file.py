"""The machine that the stand-ins simulate, as the text file that they read.

One fact per line:

    driver TEXT           cuda NUMBER           12040 is 12.4
    init_error CODE       what nvmlInit answers; as the next two, of NVML alone
    refuse CALL CODE      what that call answers, for every device; ``refuse CALL CODE GPU`` for one
    break_after N CODE    what every call answers after so many
    nvlink all            or ``nvlink 0 1`` for one pair, or ``nvlink switch``
    p2p 0                 whether GPUs can read each other's memory
    program TEXT          what any process is called
    gpu                   opens a GPU, ``slice NUMBER`` opens a MIG slice of the last one; then
        name TEXT         uuid TEXT
        memory_mib TOTAL RESERVED FREE
        process PID MIB   graphics PID MIB      -1 where the driver does not report it
        capability 8.9    power_watts LIMIT [DEFAULT]
        pcie GENERATION LANES [GENERATION LANES]      of slot and card together; of the card
        nvlinks ACTIVE [ALL [MB/S]]
        clocks CORES MHZ BUS_BITS MHZ           of the cores and of the memory
        numa NODE         ecc ON [ERRORS]       throttle BITS
        temperature_c NUMBER    draw_watts NUMBER       now
        mig               MIG mode without a slice
        handle_error CODE what asking for this GPU answers
        cuda_mib TOTAL [CONTEXT]    what CUDA reports as total; what a process's context takes
        processor MULTIPROCESSORS L2_KIB

Codes are NVML's. What is left out is not supported by that GPU. ``#`` opens a comment.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.strict_yaml import Spec, read_spec
from planner.base.units import MIB
from planner.hardware.cards import context_bytes, load_gpu
from planner.hardware.cluster import GpuSpec

DRIVER_VERSION = "580.82.07"
CUDA_VERSION = 13000
MAX_CARDS = 16
"""read: csrc/machine.h, MAX_GPUS."""
PCIE = re.compile(r"PCIe (\d)\.0 x(\d+)")
EIGHTHS = 8
GRAMMAR = "CARD[/SLICE][:N], as in h100, a100-sxm-80gb/3g.40gb or rtx-4090:2"


class Processors(Spec):
    """What CUDA reports of processors: ``processors.yaml``."""

    meaning: str
    source: str
    cards: dict[str, float]
    slices_source: str
    slices: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCards:
    """Cards of one kind, whole or as one MIG slice of each."""

    card: GpuSpec
    count: int = 1
    slice: str | None = None
    cuda_mib: int | None = None
    """MiB that CUDA reports as total, instead of what the preset or the slice has."""

    @property
    def visible_mib(self) -> int:
        """MiB that CUDA reports as the total of each."""
        if self.slice is not None:
            return self.cuda_mib or processors().slices[self.slice][1]
        return self.cuda_mib or self.card.torch_visible_mib or self.card.total_mib

    @property
    def context_mib(self) -> int:
        """MiB that a process takes beside PyTorch's allocator; as the planner counts them."""
        return context_bytes(self.card, self.card.nominal_gib) // MIB


@cache
def processors() -> Processors:
    """Return the table beside this module."""
    return read_spec(Processors, Path(__file__).with_name("processors.yaml"))


def parse_cards(text: str) -> SimulatedCards:
    """Return the cards that ``CARD[/SLICE][:N]`` names; raise UserError where it names none."""
    name, _, number = text.partition(":")
    card_name, _, profile = name.partition("/")
    if not card_name or (":" in text and not number.isdecimal()):
        raise InvalidRequestError(f"{text!r} is not a simulated card: write {GRAMMAR}")
    count = int(number or 1)
    if not 1 <= count <= MAX_CARDS:
        raise InvalidRequestError(f"{count} simulated cards: 1 to {MAX_CARDS} can be simulated")
    card = load_gpu(card_name)
    if profile and profile not in processors().slices:
        raise UnknownNameError(
            "MIG slice", profile, processors().slices, see="nvidia-smi mig -lgip"
        )
    return SimulatedCards(card=card, count=count, slice=profile or None)


def machine_text(cards: SimulatedCards) -> str:
    """Return the machine file of these cards, idle, with nothing else running."""
    lines = [f"driver {DRIVER_VERSION}", f"cuda {CUDA_VERSION}"]
    if cards.count > 1 and cards.card.nvlink_bytes_per_s and not cards.card.nvlink_needs_bridge:
        lines.append("nvlink all")
    for index in range(cards.count):
        lines += _gpu_lines(cards, index)
    return "\n".join(lines) + "\n"


def _gpu_lines(cards: SimulatedCards, index: int) -> Iterator[str]:
    card = cards.card
    multiprocessors = card.multiprocessors
    assert multiprocessors is not None, "a card of presets/gpus has all that CUDA reports"
    l2_kib = round(processors().cards[card.name] * 1024)
    total = max(card.total_mib, cards.visible_mib) if cards.slice is None else card.total_mib
    reserved = 0 if cards.slice is not None else total - cards.visible_mib
    yield "gpu"
    yield f"name {card.device_name}"
    yield f"uuid GPU-{index:08x}-5a5a-0000-0000-000000000000"
    yield f"memory_mib {total} {reserved} {total - reserved}"
    yield f"capability {card.compute_capability}"
    yield f"cuda_mib {cards.visible_mib} {cards.context_mib}"
    yield f"processor {multiprocessors} {l2_kib}"
    if card.tdp_watts is not None:
        yield f"power_watts {card.tdp_watts} {card.tdp_watts}"
    if slot := PCIE.fullmatch(card.pcie or ""):
        yield f"pcie {slot[1]} {slot[2]} {slot[1]} {slot[2]}"
    if cards.slice is not None:
        yield from _slice_lines(cards, index, multiprocessors, l2_kib)


def _slice_lines(
    cards: SimulatedCards, index: int, multiprocessors: int, l2_kib: int
) -> Iterator[str]:
    assert cards.slice is not None
    sevenths = processors().slices[cards.slice][0]
    size = cards.visible_mib
    yield "slice 0"
    yield f"name {cards.card.device_name} MIG {cards.slice}"
    yield f"uuid MIG-{index:08x}-5a5a-0000-0000-000000000000"
    yield f"memory_mib {size} 0 {size}"
    yield f"cuda_mib {size} 0"
    yield f"processor {multiprocessors * sevenths // EIGHTHS} {l2_kib * sevenths // EIGHTHS}"
