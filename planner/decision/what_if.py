"""How far a plan is from its limits: longer samples, larger micro-batches, smaller machines.

Every answer is a layout that was priced and fits, beside one that was priced and does not.
"""

from collections.abc import Callable

from msgspec import Struct, structs

from planner.decision.request import Request
from planner.decision.smallest_machines import fewest_cards, smallest_card
from planner.hardware.cards import load_gpu
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHODS, Method
from planner.search.candidate import Candidate
from planner.search.series_search import Limit

LENGTH_STEP = 128
LARGEST_MICRO_BATCH = 1024
FOLLOWED = 5
"""Trials along the line, before the open stretch is halved."""


class SmallestMachine(Struct, frozen=True, kw_only=True):
    """The smallest machine that fits a method at the request's length."""

    method: Method
    card: str | None
    """The smallest preset, as many of it as there are devices here; None if all are too small."""
    card_gib: int
    count: int | None
    """The fewest devices like those here; None where no number tried fits."""


class WhatIf(Struct, frozen=True, kw_only=True):
    """The limits of the chosen layout, otherwise unchanged, and the smallest machines."""

    largest_micro_batch: int
    longest_sequence: int
    """Tokens per sample, in steps of ``LENGTH_STEP`` or at the model's own limit."""
    machines: tuple[SmallestMachine, ...]


def what_if(request: Request, chosen: Candidate) -> WhatIf | None:
    """Return how far a plan is from its limits; None for a traced model, whose every answer would
    be a trace."""
    if isinstance(request.model.spec, TracedSpec):
        return None
    machines: tuple[SmallestMachine, ...] = ()
    if request.cluster.device == "cuda" and chosen.layout.offload == "none":
        machines = tuple(_smallest_machine(request, method) for method in _methods(request))
    return WhatIf(
        largest_micro_batch=_largest_micro_batch(request, chosen),
        longest_sequence=_longest_sequence(request, chosen),
        machines=machines,
    )


def _methods(request: Request) -> tuple[Method, ...]:
    return request.methods if request.recipe is not None else METHODS


def _largest_micro_batch(request: Request, chosen: Candidate) -> int:
    def at(size: int) -> Candidate:
        return structs.replace(chosen, layout=structs.replace(chosen.layout, micro_batch_size=size))

    here, guess = chosen.layout.micro_batch_size, _guess(request, chosen)
    known = here, chosen.memory.high_bytes
    return _largest(at, known, LARGEST_MICRO_BATCH, int(guess), request.budget_bytes)


def _guess(request: Request, chosen: Candidate) -> float:
    return Limit(budget_bytes=request.budget_bytes).micro_batch_guess(chosen)


def _longest_sequence(request: Request, chosen: Candidate) -> int:
    most = request.model.spec.max_position_embeddings
    here = chosen.workload.settings.sequence_length

    def at(steps: int) -> Candidate:
        work = chosen.workload.with_settings(sequence_length=steps * LENGTH_STEP)
        return structs.replace(chosen, workload=work)

    longer = here * _guess(request, chosen) / chosen.layout.micro_batch_size
    known = here // LENGTH_STEP, chosen.memory.high_bytes
    guess = int(longer) // LENGTH_STEP
    return max(
        here, LENGTH_STEP * _largest(at, known, most // LENGTH_STEP, guess, request.budget_bytes)
    )


Point = tuple[int, int]
"""A number and the bytes that it takes."""


def _largest(
    at: Callable[[int], Candidate], known: Point, most: int, guess: int, budget_bytes: int
) -> int:
    """Return the last number up to ``most`` that fits; all up to it do, and ``known`` does.

    Memory grows nearly in a straight line, which is followed; then the open stretch is halved.
    """
    fits, too_large = known[0], most + 1
    before, trial, tried = known, guess, 0
    while fits + 1 < too_large:
        if tried >= FOLLOWED:
            trial = (fits + too_large) // 2
        trial = min(max(trial, fits + 1), too_large - 1)
        candidate = at(trial)
        if candidate.fits(budget_bytes):
            fits = trial
        else:
            too_large = trial
        now = trial, candidate.memory.high_bytes
        before, trial, tried = now, _crossing(before, now, budget_bytes), tried + 1
    return fits


def _crossing(before: Point, now: Point, budget_bytes: int) -> int:
    """Return the last number within the budget on the line through two points."""
    bytes_each = max(1.0, (now[1] - before[1]) / (now[0] - before[0]))
    return int(now[0] + (budget_bytes - now[1]) / bytes_each)


def _smallest_machine(request: Request, method: Method) -> SmallestMachine:
    card = smallest_card(request, method)
    return SmallestMachine(
        method=method,
        card=card,
        card_gib=0 if card is None else load_gpu(card).nominal_gib,
        count=fewest_cards(request, method),
    )
