"""What FSDP holds of frozen units that a reentrant checkpoint is around: each unit's input, and its
gradient, until backward has ended."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def one_of_two() -> Iterator[None]:
    """Be the first of two ranks; what the other one would send is not there."""
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    distributed.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=2)
    yield
    distributed.destroy_process_group()


class Layer(nn.Module):
    """A layer that notes which inputs of layers that ran again before it are there with a
    gradient."""

    def __init__(self, inputs: list[weakref.ref[torch.Tensor]], held: list[int]) -> None:
        super().__init__()
        self.matrix = nn.Linear(8, 8, bias=False)
        self.inputs, self.held = inputs, held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen = [each() for each in self.inputs]
            self.held.append(sum(each is not None and each.grad is not None for each in seen))
            self.inputs.append(weakref.ref(x))
        output: torch.Tensor = self.matrix(x)
        return output


class Layers(nn.Module):
    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.units = nn.ModuleList([_unit(layer) for layer in layers])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for unit in self.units:
            x = checkpoint(unit, x, use_reentrant=True)
        return x


def _unit(module: nn.Module) -> FullyShardedDataParallel:
    return FullyShardedDataParallel(module, device_id=CPU, use_orig_params=True)


@pytest.mark.usefixtures("one_of_two")
@pytest.mark.parametrize(("frozen", "held"), [(True, [0, 1, 2]), (False, [0, 0, 0])])
def test_inputs_of_frozen_units_stay_with_their_gradients(frozen: bool, held: list[int]) -> None:
    inputs: list[weakref.ref[torch.Tensor]] = []
    found: list[int] = []
    layers = [Layer(inputs, found) for _ in held]
    for layer in layers:
        layer.requires_grad_(not frozen)
    model = _unit(Layers(layers))
    model(torch.ones(2, 8, requires_grad=True)).sum().backward()
    assert found == held
    assert all(each() is None for each in inputs)
