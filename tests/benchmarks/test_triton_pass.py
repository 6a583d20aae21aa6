"""A model with fms-acceleration's kernels: what they save, and what they overwrite."""

from dataclasses import replace

import pytest

from benchmarks.accuracy.reentrant import ReentrantTape
from benchmarks.accuracy.triton_pass import ChunkedTritonPass, TritonPass, next_power_of_2
from planner.forward.model_pass import ModelPass
from planner.plan.vocabulary import Method
from tests.benchmarks.test_fsdp import training

PASSES = (ModelPass, TritonPass, ChunkedTritonPass)


def run(model_pass: type[ModelPass], method: Method) -> ModelPass:
    return replace(training(method), tape=ReentrantTape, model_pass=model_pass).run("keep")


def peak(found: ModelPass) -> int:
    level, highest = 0, 0
    for size, *_ in found.tape.log:
        level += size
        highest = max(highest, level)
    return highest


def test_each_kernel_needs_less() -> None:
    peaks = [peak(run(each, "lora")) for each in PASSES]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


@pytest.mark.parametrize("model_pass", PASSES[1:])
def test_norms_get_no_gradient_and_all_else_that_trains_does(model_pass: type[ModelPass]) -> None:
    plain, found = run(ModelPass, "full"), run(model_pass, "full")
    norms = sum("norm" in name for name in plain.weights)
    assert norms > 0
    assert len(found.tape.kept_gradients) == len(plain.tape.kept_gradients) - norms
    kept = sum(storage.block_bytes for storage in found.tape.kept_gradients)
    assert sum(size for size, *_ in found.tape.log) == kept


def test_a_part_is_the_next_power_of_two() -> None:
    assert [next_power_of_2(n) for n in (1, 2, 3, 1024, 1025)] == [1, 2, 4, 1024, 2048]
