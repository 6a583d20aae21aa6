"""A loop on one device: steps end, and the second is as the first but for the states."""

from collections.abc import Hashable
from dataclasses import replace

import pytest
from msgspec import structs

from benchmarks.accuracy.loop import DtypeGroup, one_device
from benchmarks.accuracy.sources import HoldsOutput
from planner.allocator.replay import Allocate
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import Method
from planner.workload.optimizers import states_bytes
from planner.workload.trained_tensors import counted_tensors
from tests.benchmarks.test_fsdp import training


def _name(key: Hashable) -> object:
    return key[0] if isinstance(key, tuple) else key


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("until", ["backward", "the step"])
def test_nothing_of_a_pass_outlives_its_step(
    method: Method, checkpointing: bool, until: HoldsOutput
) -> None:
    run = replace(training(method), checkpointing=checkpointing, holds_output=until)
    held = one_device(run).held
    assert {name for name in map(_name, held) if isinstance(name, tuple)} == {("state", 2)}


def test_states_are_those_of_the_optimizer() -> None:
    run = training("lora")
    line = one_device(run)
    taken = [line.events[number] for key, number in line.held.items() if _name(key) == ("state", 2)]
    blocks = (
        round_up(event.num_bytes, ALLOCATOR_BLOCK_BYTES)
        for event in taken
        if isinstance(event, Allocate)
    )
    optimizer = optimizers()[run.workload.settings.optimizer.name]
    expected = states_bytes(optimizer, counted_tensors(run.workload), width=2, device="cuda")
    assert sum(blocks) == expected.on_device


def test_old_torch_makes_the_denominators_of_adamw_beside_their_roots() -> None:
    run = training("full")
    tensors = run.trained[0].tensors
    named = structs.replace(run.workload.settings.optimizer, name="adamw_torch")
    work = run.workload.with_settings(optimizer=named)
    batch = structs.replace(run.batch, sequence_length=8)
    new = replace(run, workload=work, batch=batch, trained=(DtypeGroup(tensors, 2),))
    old = replace(new, denominator_apart=True)
    first, second = (one_device(x).peaks(expandable_segments=True) for x in (new, old))
    assert second.allocated_bytes > first.allocated_bytes
