"""The data that a plan is for, and the sequence length that they ask for. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from planner.datasets.token_lengths import TokenLengths
from planner.plan.data_section import DataSection


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
