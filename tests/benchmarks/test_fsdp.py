"""A fully sharded loop on a timeline: more ranks need less, and what is gathered goes back."""

from dataclasses import replace

import pytest
from msgspec import structs

from benchmarks.accuracy.fsdp import first_elements, fully_sharded
from benchmarks.accuracy.loop import STEPS, DtypeGroup, Training
from benchmarks.accuracy.reentrant import FrozenUnitsTape, ReentrantTape
from benchmarks.accuracy.sources import ShardingConventions
from planner.allocator.replay import Allocate
from planner.forward.decoder import Decoder
from planner.models.model_presets import load_model
from planner.plan.vocabulary import Method
from planner.recipes.load_recipe import load_recipe
from planner.tape.tensors import StorageEvent
from planner.workload.dtypes import Numerics
from planner.workload.settings import settings_of
from planner.workload.trained_tensors import trained_tensors
from planner.workload.workload import Batch, Workload


def training(method: Method) -> Training:
    recipe = structs.replace(load_recipe(method), quantization=None, loss="standard")
    shape = structs.replace(load_model("smollm2-135m").spec, num_layers=4)
    workload = Workload(model=shape, settings=settings_of(recipe), compute="bf16")
    return Training(
        workload=workload,
        batch=Batch(micro_batch_size=1, sequence_length=128),
        numerics=Numerics(
            compute=2,
            frozen=2,
            outside=2,
            trainable=2,
            gradient=2,
            master=0,
            residual=2,
            autocast=False,
        ),
        checkpointing=True,
        micro_batches=1,
        buckets=False,
        decoder=Decoder,
        held_beside=(),
        trained=(DtypeGroup(trained_tensors(workload), 2),),
        denominator_apart=False,
        holds_output="backward",
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_more_ranks_need_less(method: Method) -> None:
    sharding = ShardingConventions(reduced_in=2, kept_in=2)
    peaks = [
        fully_sharded(training(method), sharding, ranks).peaks(expandable_segments=False)
        for ranks in (1, 2, 4)
    ]
    allocated = [peak.allocated_bytes for peak in peaks]
    assert allocated == sorted(allocated, reverse=True)
    assert len(set(allocated)) == len(allocated)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_units_and_gradients_are_given_back(method: Method) -> None:
    sharding = ShardingConventions(reduced_in=2, kept_in=4)
    held = fully_sharded(training(method), sharding, 2).held
    kinds = {key[0] for key in held if isinstance(key, tuple)}
    assert not kinds & {"unit", "flat", "reduced", "gradient", "pass"}


def test_shards_on_the_host_take_no_device_memory() -> None:
    shards = ShardingConventions(reduced_in=2, kept_in=2)
    on_host = structs.replace(shards, on_host=True)
    lora = training("lora")
    device, host = (fully_sharded(lora, kind, 2) for kind in (shards, on_host))
    assert ("rank's part", 0) in device.held
    assert ("rank's part", 0) not in host.held


AROUND = ShardingConventions(
    reduced_in=2, kept_in=2, checkpoint_around_unit=True, use_orig_params=True
)


def test_a_unit_inside_a_checkpoint_is_gathered_to_run_again_and_once_more() -> None:
    lora = replace(training("lora"), tape=ReentrantTape)
    line = fully_sharded(lora, AROUND, 2)
    layers = len(lora.workload.model.layers)
    gathered = [each for each in line.events if isinstance(each, Allocate) and each.stream == 1]
    assert len(gathered) == STEPS * (1 + 3 * layers)
    assert {key[0] for key in line.held if isinstance(key, tuple)} & {"reduced"}


def test_frozen_units_hold_the_inputs_of_layers_and_their_gradients() -> None:
    lora = training("lora")
    runs = [replace(lora, tape=tape).run("keep") for tape in (ReentrantTape, FrozenUnitsTape)]
    plain, held = (levels(run.tape.log, run.tape.passed) for run in runs)
    hidden = lora.batch.tokens * lora.workload.model.hidden_size * 2
    added = [more - less for more, less in zip(held, plain, strict=True)]
    assert added[0] == 0
    # the gradient of the last layer's input is there anyway: it goes on to the layer before
    assert added[1:] == [(2 * number - 1) * hidden for number in range(1, len(added))]
    ends = [levels(run.tape.log, [len(run.tape.log)]) for run in runs]
    assert ends[0] == ends[1]


def levels(log: list[StorageEvent], places: list[int]) -> list[int]:
    return [sum(size for size, *_ in log[:place]) for place in places]


def test_the_first_rank_has_the_first_parameters_and_a_part_of_the_next() -> None:
    assert first_elements([4, 2, 6], 6) == [4, 2]
    assert first_elements([4, 2, 6], 5) == [4, 1]
    assert first_elements([4, 2, 6], 12) == [4, 2, 6]
