"""The data that a plan is for, and the sequence length that they ask for. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from planner.datasets.token_lengths import TokenLengths
from planner.plan.data_section import DataSection
from planner.recipes.recipe import Recipe


class KnownData(NamedTuple):
    """A data set as an epoch of training sees it."""

    name: str
    formats: str
    lengths: TokenLengths
    """Of the samples, or of a part of them drawn at random."""
    num_samples: int

    @property
    def all_read(self) -> bool:
        return self.lengths.num_records == self.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What ``--data`` names, and what is known of it."""

    section: DataSection
    known: KnownData | None
    why_unknown: str = ""
    longest: int | None = None
    """A bound, where the length that the data ask for does not fit."""


def sequence_length(
    recipe: Recipe, data: TrainingData | None, *, positions: int, packing: bool
) -> int:
    """What the data ask for, within the model's positions; without data the recipe's.

    Packed rows are as long as the recipe's at least: more samples find room in a longer one.
    """
    if data is None or data.known is None:
        return min(recipe.sequence_length, positions)
    limit = positions if data.longest is None else min(positions, data.longest)
    fitting = data.known.lengths.fitting_length(limit)
    return min(max(fitting, recipe.sequence_length), limit) if packing else fitting
