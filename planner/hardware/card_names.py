"""A card as people type it and as nvidia-smi prints it, and the preset that is meant."""

import re
from functools import cache

from msgspec import Struct

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.phrases import Phrase
from planner.base.preset_files import aliases, own_files, preset_names
from planner.base.units import MIB
from planner.hardware.cards import label_gib, load_gpu, preset_texts, readable_card
from planner.hardware.cluster import GpuSpec

MOST_SUGGESTED = 3
"""Most cards that a message about an unknown one suggests."""

_SIZE = r"(?<![a-z0-9.])([0-9]+) ?(?:gib|gb|g)(?![a-z0-9])"
_MIB = r"[ ,]*(?<![a-z0-9.])([0-9]{4,6}) ?mib(?![a-z0-9])"
_LISTED = r"gpu [0-9]+: *|\(uuid:[^)]*\)"
"""What ``nvidia-smi -L`` prints around a name."""
_GLUED = (
    r"(rtx|gtx)?([a-z]?[0-9]{2,4})?"
    r"(ti|super|d|ada|laptop|mobile|sxm[0-9]?|pcie|nvl)?(super|laptop)?"
)
_VENDOR_WORDS = {
    *("nvidia", "geforce", "tesla", "quadro", "rtx", "gtx", "gpu", "gpus", "card", "cards"),
    *("generation", "edition", "blackwell", "graphics", "tensor", "core", "m"),
}
"""Words that tell no two cards apart, "m" being half of "Max-Q"'s older spelling."""
_FORM = r"pcie|sxm[0-9]?"
_MEMORY = r"hbm[0-9]e?|gddr[0-9]x?"
_OTHER_MAKERS = {
    "AMD": r"(amd )?(instinct )?mi ?[0-9]{2,3}[ax]?.*|.*radeon.*|(rx|amd)\b.*|[0-9]{4} ?xtx?",
    "Intel": r".*gaudi.*|hpu|xpu|(intel )?arc\b.*|intel\b.*",
    "Huawei": r".*ascend.*|(atlas )?(910|310)[a-z]?[0-9]?|npu",
    "Apple": r"(apple )?m[1-9]( ?(pro|max|ultra))?|apple.*|mps",
    "Google": r".*tpu.*|v[4-7][ep]",
    "Amazon": r"(aws )?(trainium|inferentia|trn|inf)[0-9]?.*",
    "Cambricon": r"mlu ?[0-9]+.*",
}
"""Patterns of whole names of accelerators that are not NVIDIA's, by their maker."""


class NamedCard(Struct, frozen=True):
    """The preset that a name stands for."""

    card: GpuSpec
    note: str | None = None
    """What was assumed where the name is that of several cards."""


class _Words(Struct, frozen=True):
    """A name taken apart, in no order."""

    model: frozenset[str]
    """Words that make it this card and no other."""
    size_gib: int | None
    form: str | None
    """``sxm`` or ``pcie``."""

    @property
    def characters(self) -> list[str]:
        """The characters of the model in no order."""
        return sorted("".join(self.model))

    @property
    def generations(self) -> set[str]:
        return {generation for word in self.model if (generation := _generation(word)) is not None}

    def allows(self, preset: str, other: "_Words") -> bool:
        """Return whether ``other``, a name of the card ``preset``, may be what is meant."""
        return (
            self.model == other.model
            and self.form in (None, other.form)
            and self.size_gib in (None, other.size_gib, load_gpu(preset).nominal_gib)
        )


def plain_spelling(text: str) -> str:
    """Return a name in lower case, with sizes as ``24gb``, without what ``nvidia-smi`` puts around.

    >>> plain_spelling("GPU 0: NVIDIA A10 (UUID: GPU-1f), 23028 MiB")
    'nvidia a10 24gb'
    """
    spec = re.sub(_LISTED, "", text.strip().lower())
    spec = re.sub(_MIB, lambda size: f" {label_gib(int(size[1]) * MIB)}gb", spec)
    return " ".join(re.sub(_SIZE, r"\1gb", spec).split())


def card_named(name: str) -> NamedCard:
    """Return the card that a name stands for: a preset's, an alias, NVML's, or near to one.

    The order of words, the maker's name and separators do not matter. Of a name that several cards
    have, the bare name's alias decides, else the smallest card, which a note says.

    Raises UnknownNameError with the nearest cards; InvalidRequestError for one of another maker.
    """
    wanted = name.strip().lower().replace(" ", "-")
    if wanted in aliases("gpus") or wanted in preset_names("gpus"):
        return NamedCard(load_gpu(wanted))
    told = [
        preset for preset in preset_names("gpus") if _device_name(preset).lower() == name.lower()
    ]
    if len(told) == 1:
        return NamedCard(load_gpu(told[0]))
    _require_nvidia(name)
    words = _words(name)
    meant = sorted(
        {preset for preset, other in _names() if words.allows(preset, other)},
        key=lambda preset: (load_gpu(preset).nominal_gib, preset),
    )
    if not meant:
        raise UnknownNameError(
            Phrase("card"), name, (), see="plan --list gpus", nearest=_nearest(name, words)
        )
    usual = [preset for preset in meant if _is_usual(words, preset)]
    if len(meant) == 1 or usual:
        return NamedCard(load_gpu((usual or meant)[0]))
    others = ", ".join(meant[1:])
    return NamedCard(
        load_gpu(meant[0]),
        Phrase(
            "{name} is the name of several cards: {card} is assumed, the others are {others}.",
            name=name,
            card=meant[0],
            others=others,
        ),
    )


def is_card(name: str) -> bool:
    """Return whether a name is that of a card."""
    try:
        card_named(name)
    except (UnknownNameError, InvalidRequestError):
        return False
    return True


def _require_nvidia(name: str) -> None:
    plain = re.sub(r"[\s_-]+", " ", name.strip().lower())
    for maker, pattern in _OTHER_MAKERS.items():
        if re.fullmatch(pattern, plain):
            raise InvalidRequestError(
                Phrase(
                    "--gpus: {name} is an accelerator of {maker}, and plans are made for NVIDIA "
                    "GPUs and the CPU only: name a card (plan --list gpus), a size such as 24G, "
                    "or cpu",
                    name=name,
                    maker=maker,
                )
            )


def _words(name: str) -> _Words:
    """Return the words of a name; what is glued together (``rtx4060ti``) is taken apart."""
    words = [
        part for word in re.split(r"[\s_/,()-]+", plain_spelling(name)) for part in _parts(word)
    ]
    sizes = {
        number: int(size[1])
        for number, word in enumerate(words)
        if (size := re.fullmatch(r"([0-9]{1,3})(gb)?", word)) and (number or size[2])
    }
    forms = [word for word in words if re.fullmatch(_FORM, word)]
    model = {
        word
        for number, word in enumerate(words)
        if number not in sizes
        and not re.fullmatch(_FORM, word)
        and not re.fullmatch(_MEMORY, word)
        and (word not in _VENDOR_WORDS or (word == "rtx" and "titan" in words))
    }
    return _Words(
        model=frozenset("laptop" if word == "mobile" else word for word in model),
        size_gib=max(sizes.values(), default=None),
        form=forms[0].rstrip("0123456789") if forms else None,
    )


def _parts(word: str) -> list[str]:
    glued = re.fullmatch(_GLUED, word)
    return [part for part in (glued.groups() if glued else (word,)) if part]


@cache
def _names() -> list[tuple[str, _Words]]:
    """Return every name of every card taken apart: its own, NVML's and its aliases."""
    own = [(preset, preset) for preset in preset_names("gpus")]
    told = [(preset, _device_name(preset)) for preset in preset_names("gpus")]
    short = [(preset, alias) for alias, preset in aliases("gpus").items()]
    return [(preset, _words(name)) for preset, name in (*own, *told, *short)]


def _device_name(preset: str) -> str:
    if preset in own_files("gpus"):
        card = readable_card(preset)
        return preset if card is None else card.device_name
    [line] = re.findall(r"^device_name: (.*)$", preset_texts()[preset], re.MULTILINE)
    return str(line)


def _is_usual(words: _Words, preset: str) -> bool:
    """Return whether a preset has this name, or is the one that the bare name stands for."""
    bare = _Words(model=words.model, size_gib=None, form=None)
    usual = {alias for alias, stands_for in aliases("gpus").items() if stands_for == preset}
    return any(_words(name) in (words, bare) for name in (preset, *usual))


def _nearest(name: str, words: _Words) -> list[str]:
    """Return the cards that may be meant, nearest first: those whose characters are swapped, then
    the same card in another size or form, else those of one generation."""
    from difflib import SequenceMatcher, get_close_matches  # only an unknown card needs them

    near = {preset for preset, other in _names() if other.model == words.model}
    if not near:
        wanted = words.generations
        near = {preset for preset, other in _names() if wanted & other.generations}
    plain = "-".join(plain_spelling(name).split())
    swapped = {preset for preset, other in _names() if other.characters == words.characters}
    if not near and not wanted and not swapped:
        return get_close_matches(name.lower(), preset_names("gpus"), n=MOST_SUGGESTED)
    near |= swapped
    likeness = {preset: SequenceMatcher(None, plain, preset).ratio() for preset in near}
    order = sorted(near, key=lambda preset: (preset not in swapped, -likeness[preset], preset))
    return order[:MOST_SUGGESTED]


def _generation(word: str) -> str | None:
    """Return what cards of one generation share of a word; None where it has no number.

    >>> [_generation(word) for word in ("4090", "4000", "a6000", "h100", "ada")]
    ['40', '000', 'a000', 'h', None]
    """
    number = re.fullmatch(r"([a-z]*)([0-9]+)[a-z]*", word)
    if number is None:
        return None
    letters, digits = number.groups()
    if digits.endswith("000"):
        return f"{letters}000"
    return letters or digits[:2]
