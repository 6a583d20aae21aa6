"""Experts that run one by one: what they hold is let go, and is less than of all together."""

from dataclasses import replace

from msgspec import structs

from benchmarks.accuracy.expert_loop import ExpertLoop
from benchmarks.accuracy.reentrant import ReentrantTape
from planner.forward.decoder import Decoder
from planner.forward.model_pass import ModelPass
from planner.models.model_presets import load_model
from planner.workload.workload import Batch
from tests.benchmarks.test_fsdp import training


def run(decoder: type[Decoder]) -> ModelPass:
    found = training("lora")
    shape = structs.replace(load_model("mixtral-8x7b").spec, num_layers=2)
    settings = replace(
        found,
        workload=structs.replace(found.workload, model=shape),
        batch=Batch(micro_batch_size=2, sequence_length=2048),
        decoder=decoder,
        tape=ReentrantTape,
    )
    return settings.run("keep")


def levels(found: ModelPass) -> list[int]:
    level, through = 0, []
    for size, *_ in found.tape.log:
        level += size
        through.append(level)
    return through


def test_one_expert_at_a_time_needs_less_and_leaves_the_gradients_alone() -> None:
    together, one_by_one = levels(run(Decoder)), levels(run(ExpertLoop))
    assert max(one_by_one) < max(together)
    assert one_by_one[-1] == together[-1] > 0
