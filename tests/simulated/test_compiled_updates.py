"""The states and the compiled updates of torchao's optimizers take what the memory model says."""

import pytest

from planner.memory.optimizer_step import update_of
from planner.plan.optimizer_presets import optimizers
from planner.workload.optimizers import tensor_states
from planner.workload.trained_tensors import TrainedTensor
from tests.simulated.conftest import facts

COMPILING_BYTES = 16 * 512
"""What is made and gone in the first step, of which the maps of codes are one."""


@pytest.mark.parametrize("card", ["h100", "t4"])
@pytest.mark.parametrize("name", ["adamw_torch_8bit", "adamw_torch_4bit"])
def test_an_update_allocates_what_the_model_says(name: str, card: str) -> None:
    """In the first step no more than in later ones: no kernel is chosen by timing it."""
    optimizer = optimizers()[name]
    for shape, width, kept, first, later in facts(card, "child_updates", name):
        tensor = TrainedTensor(tuple(shape), "matrix")
        update = update_of(optimizer, tensor, width=width, weight_decay=0.01, device="cuda")
        assert update.num_bytes == later, (shape, width)
        assert first <= max(later, COMPILING_BYTES), (shape, width)
        states = tensor_states(optimizer, tensor, width=width, device="cuda")
        assert sum(state.block_bytes for state in states) == kept, (shape, width)
