"""The data that a plan is for, as far as it is known. No function has side effects."""

from msgspec import Struct

from planner.datasets.token_lengths import TokenLengths
from planner.plan.data_section import DataSection


class KnownData(Struct, frozen=True):
    """A data set as an epoch of training sees it."""

    name: str
    formats: str
    lengths: TokenLengths
    """Token lengths of the samples, or of a part of them drawn at random."""
    num_samples: int

    @property
    def all_read(self) -> bool:
        return self.lengths.num_records == self.num_samples

    def scaled(self, count: int) -> int:
        """Return a count of the samples whose lengths are known, scaled to all of them."""
        return (
            count if self.all_read else round(count * self.num_samples / self.lengths.num_records)
        )

    def num_trained(self, length: int) -> int:
        """Return how many samples an epoch has at a sequence length."""
        return self.num_samples - self.scaled(self.lengths.num_dropped(length))


class TrainingData(Struct, frozen=True, kw_only=True):
    """The data that ``--data`` names, and its measured properties."""

    section: DataSection
    known: KnownData | None
    why_unknown: str = ""
    num_records: int | None = None
    """Records counted in the files where token lengths are unknown; None if they were not."""
    longest: int | None = None
    """Bound on the sequence length where the one that the data ask for does not fit; None
    without."""
