"""The grid around a plan: what is implied is so, and each state is what its options give."""

from itertools import product

import pytest
from msgspec import structs

from planner.decision.choose import decide
from planner.decision.method_search import search_method
from planner.decision.request import Request
from planner.decision.state_grid import Place, State, StateGrid, request_at, state_grid
from planner.hardware.detect import parse_gpus
from planner.models.model_presets import load_model

GPUS = "2x16G"


@pytest.fixture(scope="module")
def request_() -> Request:
    return Request(model=load_model("bloom-3b"), cluster=parse_gpus(GPUS))


@pytest.fixture(scope="module")
def grid(request_: Request) -> StateGrid:
    made = state_grid(request_, decide(request_).chosen, GPUS)
    assert made is not None
    return made


def placed(grid: StateGrid) -> dict[Place, State]:
    axes = grid.axes
    places = product(
        range(len(axes.methods)),
        range(len(axes.machines)),
        range(len(axes.lengths)),
        range(len(axes.micro_batch_sizes)),
        range(len(axes.checkpointing)),
    )
    return dict(zip(places, grid.states, strict=True))


def test_the_plan_is_one_of_the_states(request_: Request, grid: StateGrid) -> None:
    state = placed(grid)[grid.chosen]
    assert state.fits
    assert state.candidate is not None
    chosen = decide(request_).chosen
    assert state.candidate.layout == chosen.layout
    assert state.candidate.memory == chosen.memory


def test_what_is_implied_not_to_fit_does_not(request_: Request, grid: StateGrid) -> None:
    """Every ninth of them, which reaches every method, machine and length."""
    implied = [
        place
        for place, state in placed(grid).items()
        if state.candidate is None and state.refusal is None
    ]
    assert len(implied) > 20
    for place in implied[::9]:
        asked = request_at(request_, grid.axes, place)
        assert asked.method is not None
        assert not search_method(asked, asked.method).fits, place


def test_a_state_is_what_its_options_give(request_: Request, grid: StateGrid) -> None:
    fitting = [place for place, state in placed(grid).items() if state.fits]
    for place in fitting[:: len(fitting) // 4]:
        candidate = placed(grid)[place].candidate
        assert candidate is not None
        chosen = decide(request_at(request_, grid.axes, place)).chosen
        assert (chosen.layout, chosen.memory) == (candidate.layout, candidate.memory)


def test_options_that_contradict_a_state_refuse_it(request_: Request) -> None:
    """A global batch of 6 cannot be made of micro-batches of 4, nor be shared by 4 GPUs."""
    asked = structs.replace(request_, global_batch_size=6, method="lora")
    made = state_grid(asked, decide(asked).chosen, GPUS)
    assert made is not None
    for (_, machine, _, size, _), state in placed(made).items():
        ranks = made.axes.machines[machine].count
        possible = 6 % (ranks * made.axes.micro_batch_sizes[size]) == 0
        assert (state.refusal is None) == possible
