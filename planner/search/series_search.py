"""A series of layouts under a limit: what is known to fit, what is known not to, what is open.

Three laws make one price speak for many candidates; tests/planner/search/test_search.py holds the
search that uses them against the pricing of every candidate:

    memory never falls with the micro-batch
    memory never falls where fewer layers are recomputed, by more than a hidden state
    a step never takes longer with a larger micro-batch of the same series
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from planner.hardware.cluster import Cluster
from planner.search.candidate import Candidate
from planner.search.loss_attention_variants import Variant
from planner.search.memory_bound import most_saved_bytes
from planner.search.time_bound import most_saved_s
from planner.tape.operators import FP32
from planner.workload.layout import Series, recomputation_order

GUESSES = 3
"""So many by extrapolation; then the open stretch is halved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a candidate must keep to."""

    budget_bytes: int
    """Of one device, at the high end of the range."""
    peak_bytes: int | None = None
    """Of what tensors take at their peak, where that is bounded too."""

    def allows(self, candidate: Candidate, *, fewer_bytes: int = 0) -> bool:
        """As it is, or did its tensors take so many bytes fewer."""
        memory = candidate.memory
        peak = memory.peak_allocated_bytes
        bounded = self.peak_bytes is None or peak - fewer_bytes <= self.peak_bytes
        fewer_used = ceil(fewer_bytes * memory.high_bytes / peak)
        return bounded and candidate.fits(self.budget_bytes + fewer_used)

    def micro_batch_guess(self, priced: Candidate) -> float:
        """Where the limit would be reached if all activations and the loss grew alike."""
        memory, footprint = priced.memory, priced.footprint
        parts = footprint.phases["backward"]
        ratio = (memory.high_bytes - memory.context_bytes) / memory.peak_allocated_bytes
        grows = max(1, ratio * (parts.get("activations", 0) + parts.get("loss", 0)))
        used = ratio * footprint.total_bytes("backward") + memory.context_bytes
        return priced.layout.micro_batch_size * (1 + (self.budget_bytes - used) / grows)


@dataclass(kw_only=True, eq=False)
class Group:
    """Lanes of one strategy, loss and attention, that differ in micro-batch and recomputation
    alone, the one that keeps most first."""

    variant: Variant
    lanes: "list[Lane]" = field(default_factory=list)
    last_priced: dict[int, Candidate] = field(default_factory=dict)
    """By how many layers are recomputed: what tells how memory grows with the micro-batch."""
    with_other_loss: "Group | None" = None
    """The same, where this has the recipe's own loss."""
    floor_checked: bool = False
    """Whether the states alone were held against the limit."""

    @property
    def leanest(self) -> "Lane":
        """All that can be is recomputed, and the micro-batch is smallest."""
        return min(self.lanes, key=lambda lane: lane.leanness)

    def holds_states(self, candidate: Candidate, limit: Limit) -> bool:
        """Whether there is room for the states at least, which takes no pass to know."""
        if not self.floor_checked:
            self.floor_checked = True
            if candidate.floor_bytes > limit.budget_bytes:
                for lane in self.lanes:
                    lane.too_large_from = 0
        return any(lane.open for lane in self.lanes)

    def learn(self, candidate: Candidate, *, fits: bool) -> None:
        """What keeps no more fits with it; what keeps no less is too large with it."""
        layout = candidate.layout
        self.last_priced[layout.checkpointing] = candidate
        if fits:
            kept = recomputation_order(layout.checkpointing)
            for lane in self.lanes:
                if lane.leanness[0] <= kept:
                    lane.fits_up_to(layout.micro_batch_size)
            return
        self._rule_out(candidate, 0)
        other = self.with_other_loss
        if other is not None:
            other._rule_out(candidate, most_saved_bytes(other.variant.workload, candidate))

    def _rule_out(self, candidate: Candidate, fewer_bytes: int) -> None:
        """What keeps no less than one that is too large, were it so much smaller."""
        layout = candidate.layout
        for lane in self.lanes:
            saved = fewer_bytes
            if lane.series.checkpointing != layout.checkpointing:
                saved += _hidden_state_bytes(candidate)
            keeps_more = lane.leanness[0] >= recomputation_order(layout.checkpointing)
            if keeps_more and not lane.limit.allows(candidate, fewer_bytes=saved):
                lane.too_large_at(layout.micro_batch_size)


@dataclass(kw_only=True, eq=False)
class Lane:
    """One series. Its first ``num_fitting`` members are known to fit, those from
    ``too_large_from`` on are known not to."""

    cluster: Cluster
    series: Series
    limit: Limit
    group: Group
    own_loss: "Lane | None" = None
    """The same series with the recipe's own loss, where this has another."""
    num_fitting: int = 0
    too_large_from: int = field(init=False)
    timed: bool = field(init=False)
    """Whether its kernels are counted, rather than bounded by those of the recipe's own loss."""
    _members: dict[int, Candidate] = field(default_factory=dict)
    _least: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _priced: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.too_large_from = len(self.series.micro_batch_sizes)
        self.timed = self.own_loss is None

    @property
    def variant(self) -> Variant:
        return self.group.variant

    @property
    def leanness(self) -> tuple[float, int]:
        """Sorts by what is kept, then by the micro-batch."""
        kept = recomputation_order(self.series.checkpointing)
        return kept, self.series.micro_batch_sizes[0]

    @property
    def least_bytes(self) -> int:
        """Its first member takes no less at the high end; nothing where that is not known."""
        if self.own_loss is None:
            return 0
        own = self.own_loss.member(0)
        memory, saved = own.memory, most_saved_bytes(self.variant.workload, own)
        return memory.high_bytes - ceil(saved * memory.high_bytes / memory.peak_allocated_bytes)

    @property
    def open(self) -> bool:
        """Whether anything of it may still fit."""
        return self.too_large_from > 0

    @property
    def holds_states(self) -> bool:
        """Whether anything of it may still fit, the model's states being looked at first."""
        return self.open and self.group.holds_states(self.member(0), self.limit) and self.open

    @property
    def num_priced(self) -> int:
        return len(self._priced)

    @property
    def num_open(self) -> int:
        return self.too_large_from - self.num_fitting

    def member(self, place: int) -> Candidate:
        if place not in self._members:
            layout = self.series.layout(self.series.micro_batch_sizes[place])
            self._members[place] = Candidate(
                workload=self.variant.workload,
                layout=layout,
                cluster=self.cluster,
                departures=self.variant.departures,
            )
        return self._members[place]

    def members(self) -> Iterator[Candidate]:
        return map(self.member, range(len(self.series.micro_batch_sizes)))

    @property
    def bound(self) -> tuple[int, ...]:
        """No member that may fit has a better standing."""
        last = self.too_large_from - 1
        return self.member(last).standing if self.timed else self._least_standing(last)

    @property
    def fastest_place(self) -> int:
        """Of the members that may fit: the leanest of those that are as fast as the last."""
        bound = self.bound
        return bisect_left(
            range(self.too_large_from - 1), True, key=lambda n: self.member(n).standing <= bound
        )

    def _least_standing(self, place: int) -> tuple[int, ...]:
        if place not in self._least:
            assert self.own_loss is not None
            own = self.own_loss.member(place)
            least_s = own.ranking_time_s - most_saved_s(own)
            self._least[place] = self.member(place).standing_at(least_s)
        return self._least[place]

    def price(self, place: int) -> bool:
        """Whether a member fits; what that says of all others in the group is kept."""
        candidate = self.member(place)
        if not self.holds_states:
            return False
        self._priced.add(place)
        fits = self.limit.allows(candidate)
        self.group.learn(candidate, fits=fits)
        return fits

    def fits_up_to(self, micro_batch_size: int) -> None:
        known = bisect_right(self.series.micro_batch_sizes, micro_batch_size)
        self.num_fitting = max(self.num_fitting, known)

    def too_large_at(self, micro_batch_size: int) -> None:
        known = bisect_left(self.series.micro_batch_sizes, micro_batch_size)
        self.too_large_from = min(self.too_large_from, known)
        self.num_fitting = min(self.num_fitting, self.too_large_from)

    def narrow(self) -> None:
        """Price one more member: first of all the leanest of the group."""
        leanest = self.group.leanest
        if not self.group.last_priced and leanest is not self and leanest.open:
            leanest.price(0)
            return
        self.price(min(self._guess(), self.fastest_place))

    def _guess(self) -> int:
        """The last member that should fit, or, where that one does, the one behind it."""
        known = self.group.last_priced.get(self.series.checkpointing)
        first, last = self.num_fitting, self.too_large_from - 1
        if self.num_priced >= GUESSES:
            return (first + last) // 2
        if known is None:
            return first
        place = bisect_right(self.series.micro_batch_sizes, self.limit.micro_batch_guess(known)) - 1
        return max(first, min(last, place))


def _hidden_state_bytes(candidate: Candidate) -> int:
    """In fp32: what a recomputed layer holds, its input, a kept one may have let go of."""
    tokens = candidate.layout.micro_batch_size * candidate.workload.settings.sequence_length
    return tokens * candidate.workload.model.hidden_size * FP32


def fastest(lanes: Iterable[Lane]) -> Candidate | None:
    """The first by rank of all that fit. The lane that promises most is narrowed next, until
    none promises more than the best that is known to fit."""
    waiting = [lane for lane in lanes if lane.holds_states]
    best: Candidate | None = None
    while waiting:
        lane = min(waiting, key=lambda each: each.bound)
        if best is not None and lane.bound > best.standing:
            break
        if not lane.timed:
            lane.timed = True
            continue
        place = lane.fastest_place
        # What was concluded to fit is priced before it is chosen.
        if place < lane.num_fitting and lane.price(place):
            found = lane.member(place)
            best = found if best is None else min(best, found, key=lambda c: c.rank)
            waiting.remove(lane)
            continue
        if place >= lane.num_fitting:
            lane.narrow()
        waiting = [each for each in waiting if each.open]
    return best
