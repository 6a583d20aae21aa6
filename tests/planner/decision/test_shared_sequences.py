"""Sequences that several GPUs share: when they are planned or refused, and what each GPU does."""

from typing import Any

import pytest
from msgspec import structs

from launcher.lifecycle.fallbacks import fallback_plans
from planner.base.errors import InvalidRequestError, NothingFitsError
from planner.decision.assemble import plan_of
from planner.decision.choose import Decision, decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.hardware.network import Links
from planner.models.long_positions import with_positions_for
from planner.models.model_presets import load_model
from planner.search.candidate import Candidate
from planner.search.shared_sequences import obstacle
from planner.speed.card_rates import NOMINAL
from planner.speed.exchanges import exchanges_s
from planner.speed.pass_time import pass_time
from planner.workload.dtypes import numerics_of
from tests.launcher.plans import parallel, plan
from tests.oracle.small_models import SHAPES

LONG = 262_144


def asked(model: str = "qwen3-8b", gpus: str = "8xh100", **pinned: Any) -> Request:
    preset = with_positions_for(load_model(model), pinned.get("sequence_length"))
    return Request(model=preset, cluster=parse_gpus(gpus), **pinned)


@pytest.fixture(scope="module")
def decision() -> Decision:
    """Full fine-tuning of 8 B parameters at 256k tokens on eight cards of 80 GB."""
    return decide(asked(method="full", sequence_length=LONG))


@pytest.fixture(scope="module")
def chosen(decision: Decision) -> Candidate:
    return decision.chosen


def test_sequences_are_shared_where_nothing_fits_otherwise(decision: Decision) -> None:
    """By as few GPUs as it takes."""
    layout = decision.chosen.layout
    assert (layout.sequence_ranks, layout.world_size) == (4, 8)
    assert "nothing fits unless 4 GPUs share each sequence" in str(decision.why)
    halved = asked(method="full", sequence_length=LONG, sequence_parallel_size=2)
    with pytest.raises(NothingFitsError):
        decide(structs.replace(halved, offload="none", activation_offloading=False))


def test_groups_read_samples_of_their_own(decision: Decision) -> None:
    made = plan_of(decision)
    batch = made.batch
    assert made.parallel.sequence_parallel_size == 4
    assert batch.global_batch_size == (
        2 * batch.micro_batch_size * batch.gradient_accumulation_steps
    )


def test_leaner_layouts_make_the_same_batch() -> None:
    made = plan_of(decide(asked("llama-3.1-8b", method="lora", sequence_parallel_size=2)))
    leaner = fallback_plans(made)
    assert {each.batch.global_batch_size for each in leaner} == {made.batch.global_batch_size}
    assert {each.parallel.sequence_parallel_size for each in leaner} == {2}


def test_a_plan_has_whole_parts_of_sequences() -> None:
    shared = {**parallel("zero2"), "sequence_parallel_size": 2}
    assert plan(parallel=shared).parallel.data_ranks == 1
    with pytest.raises(ValueError, match=r"sequence_length \(127\) must be a multiple"):
        plan(parallel=shared, batch__sequence_length=127)
    with pytest.raises(ValueError, match=r"/ sequence_parallel_size \(2 \* 2 \* 1 = 4\)"):
        plan(parallel=shared, batch__global_batch_size=8)


def test_ranks_do_the_work_of_one(chosen: Candidate) -> None:
    """Together; each attends to all tokens with its heads alone."""
    kinds = numerics_of(chosen.workload, chosen.layout)
    one, four = (
        pass_time(
            chosen.workload,
            kinds,
            1,
            checkpointing=1,
            device="cuda",
            speed=NOMINAL,
            sequence_ranks=ranks,
        )
        for ranks in (1, 4)
    )
    assert 4 * four.model_flops == pytest.approx(one.model_flops, rel=1e-5)
    assert 4 * four.hardware_flops == pytest.approx(one.hardware_flops, rel=1e-5)


def test_exchanges_take_what_their_bytes_take(chosen: Candidate) -> None:
    """Of 65,536 tokens, 32 heads twice and 8 twice of 128 numbers, 2 bytes each, 36 layers three
    times; three quarters of it go to others."""
    links = Links(
        device_bytes_per_s=1e9,
        slowest_device_bytes_per_s=1e9,
        node_bytes_per_s=1e9,
        host_bytes_per_s=1e9,
        device_step_s=0.0,
        network_step_s=0.0,
        start_s=0.0,
        busy_share=0.0,
    )
    layout = structs.replace(chosen.layout, activation_checkpointing=True, checkpoint_every=1)
    kinds = numerics_of(chosen.workload, layout)
    sent = 65_536 * 2 * (32 + 8) * 128 * 2 * 36 * 3 * 3 // 4
    assert exchanges_s(chosen.workload, layout, kinds, links) == pytest.approx(sent / 1e9)


@pytest.mark.parametrize(
    ("pinned", "words"),
    [
        ({"strategy": "fsdp"}, "--strategy fsdp: only DeepSpeed's engine averages"),
        ({"packing": True}, "packed samples would see each other"),
        ({"attention": "eager"}, "eager attention needs the whole mask"),
        ({"sequence_length": 1001}, "1,001 tokens are not a multiple of it"),
        ({"sequence_parallel_size": 3}, "the GPUs of one sequence are on one node, which has 8"),
    ],
)
def test_what_cannot_be_shared_is_refused(pinned: dict[str, Any], words: str) -> None:
    request = asked("llama-3.1-8b", **{"sequence_parallel_size": 2, **pinned})
    with pytest.raises(InvalidRequestError, match=words):
        decide(request)


@pytest.mark.parametrize(
    ("shape", "ranks", "words"),
    [
        ("llama", 3, "heads of attention equally"),
        ("mistral", 2, "within a window"),
        ("qwen3-next", 2, "layers with a state"),
        ("minicpm3", 2, "keys and values of the same size"),
    ],
)
def test_an_architecture_says_why_it_cannot(shape: str, ranks: int, words: str) -> None:
    found = obstacle(SHAPES[shape], ranks, sequence_length=None, gpus_per_node=6)
    assert words in str(found)


def test_fewer_key_value_heads_than_ranks_are_on_several() -> None:
    shape = SHAPES["llama"]
    queries, keys = shape.num_attention_heads, shape.num_key_value_heads
    assert keys < queries
    assert obstacle(shape, queries, sequence_length=None, gpus_per_node=queries) is None
