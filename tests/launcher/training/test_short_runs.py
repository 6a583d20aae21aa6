"""A run of one step trains, and one that changes nothing says so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from launcher.training.weights_moved import WeightsMoved
from tests.launcher.launching import launch, write_plan


def test_one_step_has_a_learning_rate_whatever_the_warm_up(
    folder: Path, tiny_checkpoint: Path
) -> None:
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        training={"max_steps": 1},
        schedule={"kind": "cosine", "warmup_ratio": 0.03},
    )
    done = launch(folder, "--data", "data.jsonl")
    assert done.code == 0, done.output + done.errors
    assert done.metrics[0]["learning_rate"] > 0
    assert "changed no weight" not in done.output + done.errors


def test_a_run_that_changes_nothing_says_so(folder: Path, tiny_checkpoint: Path) -> None:
    """Half a rate of the smallest number rounds to no update."""
    write_plan(folder, model__source=str(tiny_checkpoint), optimizer__learning_rate=1e-45)
    done = launch(folder, "--data", "data.jsonl")
    assert done.code == 0, done.output + done.errors
    assert "warning: 4 steps changed no weight" in done.output + done.errors


@pytest.mark.parametrize("moved", [True, False])
def test_numbers_are_looked_at_all_over_a_tensor(moved: bool) -> None:
    model = torch.nn.Linear(300, 300)
    weights = WeightsMoved()
    weights.on_train_begin(model=model)
    if moved:
        with torch.no_grad():
            model.weight += 1
    assert weights.moved(model) is moved


def test_parts_with_other_rows_than_the_rest_are_looked_at() -> None:
    """The last of four ranks has 3 of 15 rows under FSDP, as with a vocabulary that four ranks do
    not divide."""
    distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=4)
    try:
        model: Any = torch.nn.Linear(8, 15)
        fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
        weights = WeightsMoved()
        weights.on_train_begin(model=model)
        assert not weights.moved(model)
        model.weight.to_local().data += 1
        assert weights.moved(model)
    finally:
        distributed.destroy_process_group()
