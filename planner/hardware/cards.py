"""Cards by name and by size: what is known of a card, and clusters of cards that were named."""

import re
from functools import cache

from msgspec import Struct, structs

from planner.base.bounded_cache import bounded_cache
from planner.base.errors import InvalidFileError
from planner.base.phrases import Joined, Phrase
from planner.base.preset_files import (
    ROOT,
    check_own_name,
    own_files,
    resolve_name,
)
from planner.base.strict_yaml import Spec, read_spec
from planner.base.text_files import read_text
from planner.base.units import GIB, MIB
from planner.hardware.cluster import PLAUSIBLE_RATES, Accelerator, Cluster, GpuSpec, Link

SAME_CARD_SHARE = 0.07
"""NVML's total may be this far from the preset's: ECC in GDDR memory takes a sixteenth of it."""


SLICE_MARK = " MIG "
"""Text between the card and the profile (``2g.10gb``) in NVML's name of a slice."""


class StatedSizes(Struct, frozen=True):
    """The sizes in the file of a card, under its keys."""

    nominal_gib: int
    nvml_total_mib: int | None = None
    torch_visible_mib: int | None = None
    context_mib: int | None = None


_SIZE = re.compile(rf"^({'|'.join(StatedSizes.__struct_fields__)}): (\w+)", re.MULTILINE)
"""A size in MiB or GiB in a card's file."""


class ReferenceCards(Spec):
    """The cards that stand in for one of which only the size is known."""

    meaning: str
    cards: dict[int, str]
    default_context_mib: int
    default_context_source: str


@cache
def reference_cards() -> ReferenceCards:
    """Return the content of presets/reference_cards.yaml."""
    return read_spec(ReferenceCards, ROOT / "reference_cards.yaml")


def named_cluster(card: GpuSpec, count: int) -> Cluster:
    """Return a cluster of ``count`` cards by name, with nothing else running on them."""
    link, link_bytes_per_s = _assumed_link(card, count)
    notes = []
    if card.torch_visible_mib is None:
        notes.append(
            Phrase("How much of this card the driver keeps is not known: all of it is counted.")
        )
    unknown = [key for key in PLAUSIBLE_RATES if getattr(card, key) is None]
    if unknown:
        notes.append(
            Phrase(
                "The speed of this card is unknown: {keys} is not stated.",
                keys=Joined(" and ", unknown),
            )
        )
    if link == "nvlink":
        notes.append(Phrase("NVLink between the cards is assumed."))
    return Cluster(
        device="cuda",
        accelerator=Accelerator(
            label=card.name,
            device_name=card.device_name,
            nominal_gib=card.nominal_gib,
            capacity_bytes=visible_bytes(card),
            context_bytes=context_bytes(card, card.nominal_gib),
            supports_bf16=card.supports_bf16,
            unified_memory=card.unified_memory,
            speed=card,
        ),
        gpus_per_node=count,
        link=link,
        link_bytes_per_s=link_bytes_per_s,
        notes=tuple(notes),
    )


def sized_cluster(size_gib: int, count: int) -> Cluster:
    """Return a cluster of cards of which only the size on the label is known; their memory is
    exactly that."""
    label = f"{size_gib}G"
    reference = reference_cards().cards.get(size_gib)
    if reference is not None:
        speed = load_gpu(reference)
        note = Phrase(
            "{label} names no card: the speed is taken from {card}.", label=label, card=reference
        )
    else:
        speed = None
        note = Phrase(
            "{label} names no card: its speed is unknown, and bf16 is assumed to run on it.",
            label=label,
        )
    return Cluster(
        device="cuda",
        accelerator=Accelerator(
            label=label,
            device_name=f"{label} card",
            nominal_gib=size_gib,
            capacity_bytes=size_gib * GIB,
            context_bytes=context_bytes(None, size_gib),
            supports_bf16=speed is None or speed.supports_bf16,
            speed=speed,
        ),
        gpus_per_node=count,
        link="pcie" if count > 1 else "none",
        link_bytes_per_s=speed.pcie_bytes_per_s if speed is not None and count > 1 else None,
        notes=(note,),
    )


def _assumed_link(card: GpuSpec, count: int) -> tuple[Link, int | None]:
    """Return the link between such cards in most machines, and its bytes per second in one
    direction; a bridge is bought apart, so it is not assumed."""
    if count == 1:
        return "none", None
    if card.nvlink_bytes_per_s and not card.nvlink_needs_bridge:
        return "nvlink", card.nvlink_bytes_per_s
    return "pcie", card.pcie_bytes_per_s


def visible_bytes(card: GpuSpec | StatedSizes) -> int:
    """Return the bytes that PyTorch sees of the card, or NVML's total where those were not
    observed."""
    return (card.torch_visible_mib or card.nvml_total_mib or 0) * MIB


def context_bytes(card: GpuSpec | StatedSizes | None, nominal_gib: int) -> int:
    """Return bytes of a CUDA context: as observed on this card, else the largest observed on cards
    of its size."""
    if card is not None and card.context_mib is not None:
        return card.context_mib * MIB
    return _largest_context_bytes(nominal_gib)


@bounded_cache
def _largest_context_bytes(nominal_gib: int) -> int:
    own = [card for name in own_files("gpus") if (card := readable_card(name)) is not None]
    observed = [card.context_mib for card in own if card.nominal_gib == nominal_gib]
    stated = [sizes for sizes in stated_sizes().values() if sizes.nominal_gib == nominal_gib]
    observed += [sizes.context_mib for sizes in stated]
    known = [size for size in observed if size is not None]
    return max(known, default=reference_cards().default_context_mib) * MIB


def is_slice(device_name: str) -> bool:
    """Return whether the name is that of a MIG slice.

    >>> is_slice("NVIDIA A100-SXM4-40GB MIG 2g.10gb")
    True
    """
    return SLICE_MARK in device_name


def card_of(device_name: str) -> str:
    """Return the card that a slice belongs to; for a whole card the name itself.

    >>> card_of("NVIDIA A100-SXM4-40GB MIG 2g.10gb")
    'NVIDIA A100-SXM4-40GB'
    """
    return device_name.partition(SLICE_MARK)[0]


def find_card(device_name: str, total_bytes: int | None) -> GpuSpec | None:
    """Return the preset of exactly this name, and of about this size where the size is known; None
    where there is none."""
    cards = [card for card in _presets_with(device_name) if card.device_name == device_name]
    if total_bytes is None:
        return cards[0] if len(cards) == 1 else None
    alike = [card for card in cards if _share_apart(total_bytes, card) <= SAME_CARD_SHARE]
    return min(alike, key=lambda card: _share_apart(total_bytes, card), default=None)


def resized_card(
    device_name: str, total_bytes: int | None, bandwidth_bytes_per_s: int | None
) -> GpuSpec | None:
    """Return the preset of this name with a machine's memory, where the two differ in size.

    Its processor, and so its rates, are the preset's; the bandwidth is the machine's where NVML
    reports it. None where several presets have the name, or where no size was read.
    """
    cards = [card for card in _presets_with(device_name) if card.device_name == device_name]
    if total_bytes is None or len(cards) != 1:
        return None
    (card,) = cards
    sizes = {
        "nominal_gib": label_gib(total_bytes),
        "nvml_total_mib": total_bytes // MIB,
        "torch_visible_mib": None,
    }
    bandwidth = bandwidth_bytes_per_s or card.memory_bandwidth_bytes_per_s
    return structs.replace(card, **sizes, memory_bandwidth_bytes_per_s=bandwidth)


def _share_apart(total_bytes: int, card: GpuSpec) -> float:
    return abs(total_bytes / (card.total_mib * MIB) - 1)


@bounded_cache
def _presets_with(text: str) -> tuple[GpuSpec, ...]:
    """Return the cards whose file has the text: to parse every file would take longer than to
    plan."""
    own = {name: read_text(file) for name, file in own_files("gpus").items()}
    named = [name for name, held in {**preset_texts(), **own}.items() if text in held]
    cards = (load_gpu(name) if name not in own else readable_card(name) for name in named)
    return tuple(card for card in cards if card is not None)


@cache
def preset_texts() -> dict[str, str]:
    """Return the text of the file of every card in presets, by name."""
    return {path.stem: read_text(path) for path in sorted((ROOT / "gpus").glob("*.yaml"))}


@cache
def stated_sizes() -> dict[str, StatedSizes]:
    """Return the sizes that the file of every card in presets states, by the card's name.

    Files are read line by line: to parse every one would take longer than to plan.
    """
    return {
        name: StatedSizes(**{key: int(value) for key, value in _SIZE.findall(text)})
        for name, text in preset_texts().items()
    }


def label_gib(total_bytes: int) -> int:
    """Return the size that a seller prints: a common one where that is close, else rounded GiB."""
    common = min(reference_cards().cards, key=lambda size: abs(size * GIB - total_bytes))
    close = abs(total_bytes / (common * GIB) - 1) <= SAME_CARD_SHARE
    return common if close else max(1, round(total_bytes / GIB))


def readable_card(name: str) -> GpuSpec | None:
    """Return the card of a name; None where its file, which may be the user's own, is broken: it
    keeps no other card from being found."""
    try:
        return load_gpu(name)
    except InvalidFileError:
        return None


@cache
def load_gpu(name: str) -> GpuSpec:
    """Return the card of a name or an alias.

    Raises UnknownNameError, which suggests the nearest one.
    """
    file_name = resolve_name("gpus", Phrase("card"), name)
    own = own_files("gpus").get(file_name)
    card = read_spec(GpuSpec, own or ROOT / "gpus" / f"{file_name}.yaml")
    if own is not None:
        check_own_name(own, card.name)
    return card
