"""The plans of ``plans.yaml``, one by one, and how each is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from planner.base.strict_yaml import parse_yaml
from planner.base.text_files import read_text

PLANS = Path(__file__).with_name("plans.yaml")


@dataclass(frozen=True, slots=True)
class Point:
    """One plan: the cards it is for and the options of ``plan``."""

    cards: str
    options: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What tells it from all other points."""
        return "--".join([self.cards, *(f"{key}={value}" for key, value in self.options)])

    @property
    def card(self) -> str:
        """The name of its card, without how many there are."""
        return self._counted[1]

    @property
    def count(self) -> int:
        """How many cards over all nodes, which is how many ranks."""
        return self._counted[0] * int(dict(self.options).get("nodes", 1))

    @property
    def _counted(self) -> tuple[int, str]:
        number, times, card = self.cards.partition("x")
        return (int(number), card) if times and number.isdecimal() else (1, self.cards)

    @property
    def arguments(self) -> list[str]:
        """The options as ``plan`` takes them."""
        listed = ["--gpus", self.cards]
        for key, value in self.options:
            is_flag = value in ("true", "false")
            listed += [f"--{'no-' * (value == 'false')}{key}"] if is_flag else [f"--{key}", value]
        return listed


def points(path: Path = PLANS) -> list[Point]:
    """Return every point once, in the order of the file."""
    blocks: Any = parse_yaml(read_text(path), path)
    return list(dict.fromkeys(point for block in blocks for point in _product(block)))


def _product(block: dict[str, Any]) -> Iterator[Point]:
    keys = list(block)
    for values in product(*(_listed(block[key]) for key in keys)):
        chosen = dict(zip(keys, map(_word, values), strict=True))
        cards = chosen.pop("cards")
        yield Point(cards, tuple(chosen.items()))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
