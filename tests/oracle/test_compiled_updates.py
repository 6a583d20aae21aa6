"""What PyTorch's compiled code allocates in an update of torchao's, on the CPU: exact.

On simulated cards it is tests/simulated/test_compiled_updates.py.
"""

import pytest
import torch
from msgspec import structs
from torch.profiler import ProfilerActivity, profile

from launcher.training.optimizer import build_optimizer
from planner.base.units import block
from planner.memory.optimizer_step import update_of
from planner.plan.optimizer_presets import optimizers
from planner.recipes.load_recipe import load_recipe
from planner.workload.trained_tensors import TrainedTensor
from tests.torchao import NEEDS_TORCHAO

pytestmark = NEEDS_TORCHAO

SCALAR = 8
"""Bytes of a number of Python's beside a tensor, which traces do not see either."""
SHAPES = [(64, 64), (96, 40), (16, 256), (4096,), (8, 64, 48)]
CHEAP = ("adamw_torch_8bit", (64, 64))


class Weights(torch.nn.Module):
    """One parameter, with a gradient."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(shape))
        self.weight.grad = torch.ones(shape)


def allocated(optimizer: torch.optim.Optimizer) -> int:
    """Bytes in blocks at the largest moment of an update."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        optimizer.step()
    live = largest = 0
    assert seen.profiler is not None
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]" and abs(event.nbytes()) > SCALAR:
            live += block(event.nbytes()) if event.nbytes() > 0 else -block(-event.nbytes())
            largest = max(largest, live)
    assert live == 0
    return largest


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=() if (name, shape) == CHEAP else pytest.mark.long)
        for name in ("adamw_torch_8bit", "adamw_torch_4bit")
        for shape in SHAPES
    ],
)
def test_an_update_allocates_what_the_model_says(name: str, shape: tuple[int, ...]) -> None:
    section = structs.replace(load_recipe("full").optimizer, name=name)
    optimizer = build_optimizer(section, Weights(shape))
    optimizer.step()
    tensor = TrainedTensor(shape, "matrix")
    ours = update_of(optimizers()[name], tensor, width=4, weight_decay=0.0, device="cpu")
    assert ours.num_bytes == allocated(optimizer)
