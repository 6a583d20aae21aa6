"""A run of one step trains, and one that changes nothing says so."""

from pathlib import Path

import pytest
import torch

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
