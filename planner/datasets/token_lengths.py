"""The distribution of samples by tokens, and what a sequence length makes of them: which are whole,
cut or left out, and the rows that they are packed in. ``plan`` and ``launch`` both count with it.

Counts are of whole samples, before any is cut.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from functools import cached_property
from math import ceil

from msgspec import Struct

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.units import round_up

ROUND_TO = 64
"""Multiple that sequence lengths are rounded up to, so that tiles of matrix and attention kernels
are full."""
SHARE_HELD = 0.99
"""Share of the records that a chosen length holds whole."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)
PACKED_AT_ONCE = 1000
"""read: datasets' batch size of ``map``, in which trl's pack_dataset works."""


class TokenLengths(Struct, frozen=True, dict=True):
    """How many records there are of each number of tokens."""

    counts: Mapping[int, int]
    learnt_from: Mapping[tuple[int, int], int] = {}
    """How many there are of each number of tokens and each position of their first token in the
    loss; empty where every first token is in the loss, so that no record is left out."""

    @classmethod
    def of_samples(cls, samples: Mapping[tuple[int, int], int]) -> "TokenLengths":
        """Return the lengths of samples that are counted by tokens and by the position of their
        first token in the loss."""
        counts: dict[int, int] = {}
        for (tokens, _), count in samples.items():
            counts[tokens] = counts.get(tokens, 0) + count
        return cls(counts, samples)

    def __hash__(self) -> int:
        """Return a hash, since results for a request, which holds the lengths, are cached by it."""
        return hash((frozenset(self.counts.items()), frozenset(self.learnt_from.items())))

    @cached_property
    def num_records(self) -> int:
        return sum(self.counts.values())

    @cached_property
    def num_tokens(self) -> int:
        return sum(length * count for length, count in self.counts.items())

    @property
    def longest(self) -> int:
        return max(self.counts)

    def quantile(self, share: float) -> int:
        """Return the least length that holds this share of the records.

        >>> TokenLengths({10: 3, 20: 1}).quantile(0.75), TokenLengths({10: 3, 20: 1}).quantile(1)
        (10, 20)
        """
        wanted, seen = ceil(share * self.num_records - 1e-9), 0
        for length in sorted(self.counts):
            seen += self.counts[length]
            if seen >= wanted:
                return length
        return self.longest

    def num_dropped(self, length: int) -> int:
        """Return how many records have nothing in the loss within ``length`` tokens: they are left
        out."""
        return sum(count for (_, first), count in self.learnt_from.items() if first >= length)

    def num_truncated(self, length: int) -> int:
        """Return how many records are cut at ``length``."""
        return sum(count for tokens, count in self._kept(length) if tokens > length)

    def tokens_lost(self, length: int) -> int:
        """Return how many tokens are cut off at ``length``."""
        return sum(
            (tokens - length) * count for tokens, count in self._kept(length) if tokens > length
        )

    def _kept(self, length: int) -> list[tuple[int, int]]:
        """Return tokens and counts of the whole records that are trained on at ``length``."""
        dropped: dict[int, int] = {}
        for (tokens, first), count in self.learnt_from.items():
            if first >= length:
                dropped[tokens] = dropped.get(tokens, 0) + count
        kept = ((tokens, count - dropped.get(tokens, 0)) for tokens, count in self.counts.items())
        return [(tokens, count) for tokens, count in kept if count]

    def cut(self, length: int) -> "TokenLengths":
        """Return the lengths of the records that are trained on, cut at ``length``.

        Raises InvalidRequestError where none is left.
        """
        cut: dict[int, int] = {}
        for tokens, count in self._kept(length):
            kept = min(tokens, length)
            cut[kept] = cut.get(kept, 0) + count
        if not cut:
            raise InvalidRequestError(nothing_learnt(length))
        return TokenLengths(cut)

    def fitting_length(self, limit: int) -> int:
        """Return the least multiple of 64 that holds 99 % of the records, within ``limit``.

        >>> TokenLengths({100: 99, 900: 1}).fitting_length(2048)
        128
        >>> TokenLengths({100: 9, 900: 1}).fitting_length(512)
        512
        """
        return min(round_up(self.quantile(SHARE_HELD), ROUND_TO), limit)

    def padded_length(self, micro_batch_size: int) -> float:
        """Return the expected tokens of each row of a micro-batch, all padded to its longest.

        The largest of m records drawn by chance is at most x with probability F(x)^m.

        >>> TokenLengths({10: 1, 20: 1}).padded_length(2)
        17.5
        """
        expected, below, seen = 0.0, 0.0, 0
        for length in sorted(self.counts):
            seen += self.counts[length]
            within = (seen / self.num_records) ** micro_batch_size
            expected += length * (within - below)
            below = within
        return expected

    def padding_share(self, micro_batch_size: int) -> float:
        """Return the share of the computed tokens that are padding."""
        return 1 - self.num_tokens / self.num_records / self.padded_length(micro_batch_size)

    def records_per_row(self, length: int) -> float:
        """Return how many records share a packed row of ``length`` tokens, by best fit decreasing.

        >>> TokenLengths({30: 2, 60: 2}).records_per_row(100)
        2.0
        """
        spaces: list[int] = []
        rows = placed = 0
        for tokens, count in sorted(self._sample().items(), reverse=True):
            for _ in range(count):
                at = bisect_left(spaces, min(tokens, length))
                if at < len(spaces):
                    space = spaces.pop(at)
                else:
                    space, rows = length, rows + 1
                insort(spaces, space - min(tokens, length))
                placed += 1
        return placed / rows

    def _sample(self) -> Mapping[int, int]:
        """Return as many records as are packed together, evenly from the shortest to the
        longest."""
        if self.num_records <= PACKED_AT_ONCE:
            return self.counts
        drawn: dict[int, int] = {}
        seen = taken = 0
        for length in sorted(self.counts):
            seen += self.counts[length]
            upto = seen * PACKED_AT_ONCE // self.num_records
            if upto > taken:
                drawn[length] = upto - taken
                taken = upto
        return drawn


def nothing_learnt(length: int) -> Phrase:
    """Return why data cannot be trained on of which a sequence length leaves nothing."""
    return Phrase(
        "no record has an answer within {sequence_length} tokens. Raise sequence_length",
        sequence_length=length,
    )
