"""How far a plan is from its limits: longer samples, larger micro-batches, smaller machines.

Every answer is a layout that was priced and fits, beside one that was priced and does not."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.candidate import Candidate
from planner.lanes import Limit
from planner.machines import fewest_cards, smallest_card
from planner.plan import METHODS, Method
from planner.presets import load_gpu
from planner.request import Request
from planner.traced_model import TracedSpec

LENGTH_STEP = 128
LARGEST_MICRO_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallestMachine:
    """What would carry a method at the request's length, in the cards' own words."""

    method: Method
    card: str | None
    """The smallest preset, as many of it as there are devices here."""
    card_gib: int
    count: int | None
    """The fewest devices like those here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The chosen layout otherwise unchanged."""

    largest_micro_batch: int
    longest_sequence: int
    """In steps of ``LENGTH_STEP``, unless it is the model's own limit."""
    machines: tuple[SmallestMachine, ...]


def what_if(request: Request, chosen: Candidate) -> WhatIf | None:
    """Nothing where each answer would be a trace of the real model."""
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
        return replace(chosen, layout=replace(chosen.layout, micro_batch_size=size))

    here = chosen.layout.micro_batch_size
    guess = int(Limit(budget_bytes=request.budget_bytes).micro_batch_guess(chosen))
    return _largest(lambda n: at(n).fits(request.budget_bytes), here, LARGEST_MICRO_BATCH, guess)


def _longest_sequence(request: Request, chosen: Candidate) -> int:
    recipe, most = chosen.workload.recipe, request.model.spec.max_position_embeddings
    here = recipe.sequence_length

    def fits(steps: int) -> bool:
        length = {"sequence_length": steps * LENGTH_STEP}
        work = chosen.workload.model_copy(update={"recipe": recipe.model_copy(update=length)})
        return replace(chosen, workload=work).fits(request.budget_bytes)

    guess = Limit(budget_bytes=request.budget_bytes).micro_batch_guess(chosen)
    longer = int(here * guess / chosen.layout.micro_batch_size) // LENGTH_STEP
    steps = _largest(fits, here // LENGTH_STEP, most // LENGTH_STEP, longer)
    return max(here, steps * LENGTH_STEP)


def _largest(fits: Callable[[int], bool], known: int, most: int, guess: int) -> int:
    """The last number up to ``most`` that fits, where all do up to it; ``known`` does."""
    too_large, step = most + 1, 1
    trial = min(most, max(known + 1, guess))
    while known + 1 < too_large:
        if fits(trial):
            known, trial = trial, min(trial + step, too_large - 1)
        else:
            too_large, trial = trial, max(trial - step, known + 1)
        step *= 2
        if too_large - known <= step:
            trial = (known + too_large) // 2
    return known


def _smallest_machine(request: Request, method: Method) -> SmallestMachine:
    alone = replace(
        request,
        method=None if request.recipe is not None else method,
        global_batch_size=None,
        micro_batch_size=None,
        memory_limit_bytes=None,
    )
    card = smallest_card(alone, method)
    return SmallestMachine(
        method=method,
        card=card,
        card_gib=0 if card is None else load_gpu(card).nominal_gib,
        count=fewest_cards(replace(alone, memory_limit_bytes=request.memory_limit_bytes), method),
    )
