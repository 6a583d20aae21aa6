"""How far a plan is from its limits, and what is named where nothing fits: each was priced."""

import re
from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, NothingFitsError, UserError
from planner.base.preset_files import preset_names
from planner.decision.choose import Decision, decide
from planner.decision.method_search import search_method
from planner.decision.request import Request
from planner.decision.smallest_machines import CARD_COUNTS, cards_by_capacity, fewest_cards
from planner.decision.what_if import LENGTH_STEP, WhatIf
from planner.hardware.cards import load_gpu, named_cluster
from tests.planner.builders import cards, request


@pytest.fixture(scope="module")
def decision() -> Decision:
    return decide(request(cards(1, 24), model="qwen2.5-1.5b", method="lora", micro_batch_size=1))


def what_if(decision: Decision) -> WhatIf:
    found = decision.what_if
    assert found is not None
    return found


def fits(decision: Decision, *, micro_batch: int | None = None, length: int | None = None) -> bool:
    chosen = decision.chosen
    layout = structs.replace(
        chosen.layout, micro_batch_size=micro_batch or chosen.layout.micro_batch_size
    )
    asked = length or chosen.workload.settings.sequence_length
    work = chosen.workload.with_settings(sequence_length=asked)
    changed = structs.replace(chosen, layout=layout, workload=work)
    return changed.fits(decision.request.budget_bytes)


def test_the_largest_micro_batch_fits_and_one_more_does_not(decision: Decision) -> None:
    most = what_if(decision).largest_micro_batch
    assert most > decision.chosen.layout.micro_batch_size
    assert fits(decision, micro_batch=most)
    assert not fits(decision, micro_batch=most + 1)


def test_the_longest_sequence_fits_and_one_step_more_does_not(decision: Decision) -> None:
    most = what_if(decision).longest_sequence
    assert most > decision.chosen.workload.settings.sequence_length
    assert fits(decision, length=most)
    assert not fits(decision, length=most + LENGTH_STEP)


def test_no_smaller_card_carries_the_method(decision: Decision) -> None:
    (machine,) = (each for each in what_if(decision).machines if each.method == "full")
    order = [card.name for card in cards_by_capacity()]
    assert sorted(order) == [
        name for name in preset_names("gpus") if "Laptop" not in load_gpu(name).device_name
    ]
    place = order.index(machine.card or "")
    carried = [
        search_method(
            structs.replace(
                decision.request, cluster=named_cluster(load_gpu(name), 1), method="full"
            ),
            "full",
        )
        for name in order[place - 1 : place + 1]
    ]
    assert [result.fits for result in carried] == [False, True]


def test_no_fewer_cards_carry_the_method() -> None:
    asked = request(cards(1, 24), method="full")
    count = fewest_cards(asked, "full")
    assert count == 8
    for fewer in (number for number in CARD_COUNTS if number < count):
        cluster = structs.replace(asked.cluster, gpus_per_node=fewer)
        assert not search_method(structs.replace(asked, cluster=cluster), "full").fits


WAYS_OUT: list[tuple[Request, str]] = [
    (
        request(cards(1, 24), method="qlora", micro_batch_size=8, checkpoint_every=2),
        "Without --micro-batch-size 8",
    ),
    (
        request(cards(1, 24), method="lora", activation_checkpointing=False),
        "Without --no-activation-checkpointing",
    ),
    (
        request(cards(1, 16), model="llama-3.1-8b", method="qlora", lora_rank=1024),
        "--lora-rank",
    ),
    (
        request(
            cards(1, 24),
            model="gemma-2-9b",
            method="qlora",
            loss="standard",
            micro_batch_size=2,
            sequence_length=4096,
        ),
        "Without",
    ),
]


@pytest.mark.parametrize(("asked", "words"), WAYS_OUT, ids=[words for _, words in WAYS_OUT])
def test_the_way_out_fits(asked: Request, words: str) -> None:
    with pytest.raises(NothingFitsError, match=r"GiB short\. ") as raised:
        decide(asked)
    way = str(raised.value).rpartition("short. ")[2]
    assert way.startswith(words)
    changes: dict[str, Any] = {
        "--micro-batch-size": {"micro_batch_size": None},
        "--no-activation-checkpointing": {"activation_checkpointing": None},
        "--checkpoint-every": {"checkpoint_every": None},
        "--loss": {"loss": None},
    }
    found = {k: v for option, c in changes.items() if option in way for k, v in c.items()}
    rank = re.match(r"--lora-rank (\d+) fits", way)
    if rank is not None:
        found["lora_rank"] = int(rank[1])
    assert decide(structs.replace(asked, **found)).chosen.memory.high_bytes <= asked.budget_bytes


def test_pinned_numerics_are_obeyed() -> None:
    pinned: dict[str, Any] = {
        "method": "lora",
        "loss": "standard",
        "precision": "fp16",
        "lora_targets": ("q_proj", "v_proj"),
    }
    work = decide(request(cards(1, 48), **pinned)).chosen.workload
    assert (work.loss, work.compute) == ("standard", "fp16")
    assert work.settings.adapter is not None
    assert work.settings.adapter.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"lora_targets": ("q_prj",)}, "Did you mean 'q_proj'"),
        ({"lora_targets": ("q_proj",), "method": "full"}, "no meaning for full"),
        ({"model": "mixtral-8x7b", "lora_targets": ("gate",)}, "no matrix of mixtral-8x7b"),
    ],
)
def test_targets_that_cannot_be(pinned: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        decide(request(cards(1, 80), **pinned))


def test_a_precision_that_the_card_has_not() -> None:
    old = request(named_cluster(load_gpu("t4"), 1), precision="bf16")
    with pytest.raises(InvalidRequestError, match=r"capability 8\.0"):
        decide(old)
