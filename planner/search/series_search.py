"""Search state of one series: which micro-batch sizes fit, do not fit, or are undecided.

Three laws make one price speak for many candidates; tests/planner/search/test_search.py holds the
search that uses them against the pricing of every candidate:

    memory never falls with the micro-batch
    memory never falls where fewer layers are recomputed, by more than a hidden state
    a step never takes longer with a larger micro-batch of the same series
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from math import ceil

from msgspec import Struct, field

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Cluster
from planner.search.candidate import Candidate
from planner.search.loss_attention_variants import Variant
from planner.search.memory_bound import most_saved_bytes
from planner.search.time_bound import most_saved_s
from planner.workload.layout import Series, recomputation_order

GUESSES = 3
"""Number of candidates that are chosen by extrapolation; after them the undecided stretch is
halved."""


class Limit(Struct, frozen=True, kw_only=True):
    """The memory that a candidate may take."""

    budget_bytes: int
    """Bytes of one device, held against the high end of the range."""
    peak_bytes: int | None = None
    """Bytes of the tensors' peak, where that is bounded too."""

    def allows(self, candidate: Candidate, *, fewer_bytes: int = 0) -> bool:
        """Return whether the candidate is within the limit after subtracting ``fewer_bytes``."""
        memory = candidate.memory
        peak = memory.peak_allocated_bytes
        bounded = self.peak_bytes is None or peak - fewer_bytes <= self.peak_bytes
        fewer_used = ceil(fewer_bytes * memory.high_bytes / peak)
        return bounded and candidate.fits(self.budget_bytes + fewer_used)

    def micro_batch_guess(self, priced: Candidate) -> float:
        """Return the micro-batch size that would reach the limit if activations and loss grew in
        proportion to it."""
        memory, footprint = priced.memory, priced.footprint
        parts = footprint.phases["backward"]
        ratio = (memory.high_bytes - memory.context_bytes) / memory.peak_allocated_bytes
        grows = max(1, ratio * (parts.get("activations", 0) + parts.get("loss", 0)))
        used = ratio * footprint.total_bytes("backward") + memory.context_bytes
        return priced.layout.micro_batch_size * (1 + (self.budget_bytes - used) / grows)


class SeriesGroup(Struct, kw_only=True, eq=False):
    """Series with the same strategy, copies, loss and attention, which differ in micro-batch and
    recomputation alone; the one that keeps most activations comes first."""

    variant: Variant
    series: "list[SeriesSearch]" = field(default_factory=list)
    last_priced: dict[int, Candidate] = field(default_factory=dict)
    """The latest priced candidate by its layout's ``checkpointing``: these show how memory grows
    with the micro-batch."""
    with_other_loss: "SeriesGroup | None" = None
    """The group with another loss, if this one has the recipe's."""
    floor_checked: bool = False
    """Whether the model's states alone have been held against the limit."""

    @property
    def leanest(self) -> "SeriesSearch":
        """The series with the most recomputation and the smallest micro-batch."""
        return min(self.series, key=lambda search: search.leanness)

    def holds_states(self, candidate: Candidate, limit: Limit) -> bool:
        """Return whether there is room for the model's states, which takes no pass to know."""
        if not self.floor_checked:
            self.floor_checked = True
            if candidate.floor_bytes > limit.budget_bytes:
                for search in self.series:
                    search.too_large_from = 0
        return any(search.open for search in self.series)

    def learn(self, candidate: Candidate, *, fits: bool) -> None:
        """Note what a price implies for the group: candidates that need no more fit too, those that
        need no less do not."""
        layout = candidate.layout
        self.last_priced[layout.checkpointing] = candidate
        if fits:
            kept = recomputation_order(layout.checkpointing)
            for search in self.series:
                if search.leanness[0] <= kept:
                    search.fits_up_to(layout.micro_batch_size)
            return
        self._rule_out(candidate, 0)
        other = self.with_other_loss
        if other is not None:
            saved = most_saved_bytes(other.variant.workload, candidate)
            other._rule_out(candidate, saved + candidate.memory.holes_beyond_ratio_bytes)

    def _rule_out(self, candidate: Candidate, fewer_bytes: int) -> None:
        """Rule out what needs no less than a candidate that is too large even with ``fewer_bytes``
        less."""
        layout = candidate.layout
        for search in self.series:
            saved = fewer_bytes
            if search.layouts.checkpointing != layout.checkpointing:
                saved += _hidden_state_bytes(candidate)
            keeps_as_much = search.leanness[0] >= recomputation_order(layout.checkpointing)
            if keeps_as_much and not search.limit.allows(candidate, fewer_bytes=saved):
                search.too_large_at(layout.micro_batch_size)


class SeriesSearch(Struct, kw_only=True, eq=False):
    """What is known of one series: its first ``num_fitting`` candidates fit, those from index
    ``too_large_from`` on do not."""

    cluster: Cluster
    layouts: Series
    limit: Limit
    group: SeriesGroup
    with_recipe_loss: "SeriesSearch | None" = None
    """The corresponding series with the recipe's loss, if this one has another."""
    num_fitting: int = 0
    too_large_from: int = 0
    timed: bool = True
    """Whether kernels are counted; if not, times are bounded by those with the recipe's loss."""
    _candidates: dict[int, Candidate] = field(default_factory=dict)
    _least: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _priced: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.too_large_from = len(self.layouts.micro_batch_sizes)
        self.timed = self.with_recipe_loss is None

    @property
    def variant(self) -> Variant:
        """Workload of its candidates."""
        return self.group.variant

    @property
    def leanness(self) -> tuple[float, int]:
        """Sort key: fewer kept activations first, then the smaller micro-batch."""
        kept = recomputation_order(self.layouts.checkpointing)
        return kept, self.layouts.micro_batch_sizes[0]

    @property
    def least_bytes(self) -> int:
        """Lower bound of its first candidate's memory at the high end of the range; 0 if none is
        known."""
        if self.with_recipe_loss is None:
            return 0
        recipe_candidate = self.with_recipe_loss.candidate(0)
        memory, saved = (
            recipe_candidate.memory,
            most_saved_bytes(self.variant.workload, recipe_candidate),
        )
        at_most = ceil(saved * memory.high_bytes / memory.peak_allocated_bytes)
        return memory.high_bytes - at_most - memory.holes_beyond_ratio_bytes

    @property
    def open(self) -> bool:
        """Whether any candidate may still fit."""
        return self.too_large_from > 0

    @property
    def holds_states(self) -> bool:
        """Whether any candidate may still fit, once the model's states have been held against the
        limit."""
        return self.open and self.group.holds_states(self.candidate(0), self.limit) and self.open

    @property
    def num_priced(self) -> int:
        """Number of candidates whose memory was computed."""
        return len(self._priced)

    @property
    def num_open(self) -> int:
        """Number of candidates that are undecided."""
        return self.too_large_from - self.num_fitting

    def candidate(self, index: int) -> Candidate:
        """Return the candidate with the micro-batch size of that index."""
        if index not in self._candidates:
            layout = self.layouts.layout(self.layouts.micro_batch_sizes[index])
            self._candidates[index] = Candidate(
                workload=self.variant.workload,
                layout=layout,
                cluster=self.cluster,
                departures=self.variant.departures,
            )
        return self._candidates[index]

    def candidates(self) -> Iterator[Candidate]:
        """Return every candidate, the smallest micro-batch first."""
        return map(self.candidate, range(len(self.layouts.micro_batch_sizes)))

    @property
    def bound(self) -> tuple[int, ...]:
        """Standing that no candidate which may fit surpasses."""
        last = self.too_large_from - 1
        return self.candidate(last).standing if self.timed else self._least_standing(last)

    @property
    def fastest_index(self) -> int:
        """Index of the leanest among the candidates that may fit and are as fast as the last of
        them."""
        bound = self.bound
        return bisect_left(
            range(self.too_large_from - 1), True, key=lambda n: self.candidate(n).standing <= bound
        )

    def _least_standing(self, index: int) -> tuple[int, ...]:
        if index not in self._least:
            assert self.with_recipe_loss is not None
            recipe_candidate = self.with_recipe_loss.candidate(index)
            least_s = recipe_candidate.ranking_time_s - most_saved_s(recipe_candidate)
            self._least[index] = self.candidate(index).standing_at(least_s)
        return self._least[index]

    def price(self, index: int) -> bool:
        """Return whether the candidate of that index fits, and note what that says of its group."""
        candidate = self.candidate(index)
        if not self.holds_states:
            return False
        self._priced.add(index)
        fits = self.limit.allows(candidate)
        self.group.learn(candidate, fits=fits)
        return fits

    def fits_up_to(self, micro_batch_size: int) -> None:
        """Note that candidates up to this micro-batch size fit."""
        known = bisect_right(self.layouts.micro_batch_sizes, micro_batch_size)
        self.num_fitting = max(self.num_fitting, known)

    def too_large_at(self, micro_batch_size: int) -> None:
        """Note that candidates from this micro-batch size on do not fit."""
        known = bisect_left(self.layouts.micro_batch_sizes, micro_batch_size)
        self.too_large_from = min(self.too_large_from, known)
        self.num_fitting = min(self.num_fitting, self.too_large_from)

    def narrow(self) -> None:
        """Price one more candidate: first of all the leanest of the group."""
        leanest = self.group.leanest
        if not self.group.last_priced and leanest is not self and leanest.open:
            leanest.price(0)
            return
        self.price(min(self._guess(), self.fastest_index))

    def _guess(self) -> int:
        """Return the index of the last candidate that should fit, or of the one after it if that
        fits."""
        known = self.group.last_priced.get(self.layouts.checkpointing)
        first, last = self.num_fitting, self.too_large_from - 1
        if self.num_priced >= GUESSES:
            return (first + last) // 2
        if known is None:
            return first
        index = (
            bisect_right(self.layouts.micro_batch_sizes, self.limit.micro_batch_guess(known)) - 1
        )
        return max(first, min(last, index))


def _hidden_state_bytes(candidate: Candidate) -> int:
    """Return the bytes of a hidden state in fp32: a recomputed layer holds its input, which a layer
    that keeps its activations may have let go of."""
    tokens = candidate.layout.micro_batch_size * candidate.workload.settings.sequence_length
    tokens //= candidate.layout.sequence_ranks
    return tokens * candidate.workload.model.hidden_size * FP32_BYTES


def fastest(series: Iterable[SeriesSearch]) -> Candidate | None:
    """Return the first candidate by rank of those that fit.

    The series that promises most is narrowed next, until none promises more than the best candidate
    that is known to fit.
    """
    waiting = [search for search in series if search.holds_states]
    best: Candidate | None = None
    while waiting:
        search = min(waiting, key=lambda waiting_search: waiting_search.bound)
        if best is not None and search.bound > best.standing:
            break
        if not search.timed:
            search.timed = True
            continue
        index = search.fastest_index
        # What was concluded to fit is priced before it is chosen.
        if index < search.num_fitting and search.price(index):
            candidate = search.candidate(index)
            best = min(filter(None, (best, candidate)), key=lambda candidate: candidate.rank)
            waiting.remove(search)
            continue
        if index >= search.num_fitting:
            search.narrow()
        waiting = [search for search in waiting if search.open]
    return best
