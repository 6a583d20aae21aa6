"""Adapters in peft's own comparison of methods: how much trains, and what that holds."""

from benchmarks.accuracy.adapters import adapter_runs, differences
from planner.base.units import MIB

RUNS = adapter_runs()


def test_as_many_parameters_train_as_published() -> None:
    assert {run.run: run.trainable for run in RUNS} == {
        run.run: run.published_trainable for run in RUNS
    }


def test_twice_the_rank_holds_what_was_published_to_its_last_digit() -> None:
    found = [each for each in differences(RUNS) if "rank64" in each[0].run]
    assert len(found) == 4
    assert all(abs(predicted - published) < 0.1 * MIB for _run, published, predicted in found)
