"""Why a method was chosen: the sentence is true of the machine, the model and what fits."""

from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import NothingFitsError
from planner.base.units import GIB, MIB
from planner.decision.choose import TIGHT_SHARE, decide
from planner.hardware.cards import load_gpu, named_cluster
from planner.hardware.cluster import Cluster
from planner.plan.vocabulary import Method
from planner.recipes.load_recipe import load_recipe
from tests.planner.builders import cards, request

STARTS = "for 6.24 B parameters QLoRA is preferred from 24, LoRA from 48, full from 120"


REASONS: list[tuple[Cluster, dict[str, Any], Method, str]] = [
    (cards(1, 24), {}, "qlora", f"24 GiB; {STARTS}"),
    (cards(2, 24), {}, "lora", f"48 GiB; {STARTS}"),
    (
        cards(1, 12),
        {},
        "qlora",
        f"12 GiB; {STARTS}; QLoRA is the leanest method that fits",
    ),
    (
        cards(1, 40),
        {"model": "falcon-7b"},
        "lora",
        "40 GiB; for 6.92 B parameters QLoRA is preferred from 27, LoRA from 54, full from 134; "
        "QLoRA is ruled out; LoRA is the leanest method that fits",
    ),
    (
        cards(2, 70),
        {"micro_batch_size": 16, "strategy": "zero3"},
        "lora",
        f"140 GiB; {STARTS}; full does not fit",
    ),
    (cards(1, 24), {"method": "lora"}, "lora", "asked for; the simplest of the fastest that fit"),
    (
        cards(1, 24),
        {"recipe": load_recipe("lora")},
        "lora",
        "the recipe's method; the simplest of the fastest that fit",
    ),
    (cards(1, 24), {"prefer": "quality"}, "lora", "the richest method that fits"),
    (cards(1, 24), {"prefer": "memory"}, "qlora", "the smallest peak of all methods"),
]


@pytest.mark.parametrize(
    ("where", "pinned", "method", "why"), REASONS, ids=[why for _, _, _, why in REASONS]
)
def test_why(where: Cluster, pinned: dict[str, Any], method: Method, why: str) -> None:
    decision = decide(request(where, **pinned))
    assert (decision.chosen.method, decision.why.split("; standard loss")[0]) == (method, why)


@pytest.mark.parametrize(("count", "gib"), [(1, 12), (1, 24), (2, 80), (8, 24), (1, 48), (4, 40)])
def test_tight_is_little_to_spare(count: int, gib: int) -> None:
    decision = decide(request(cards(count, gib)))
    budget = decision.request.budget_bytes
    spare = budget - decision.chosen.memory.high_bytes
    assert decision.spare_bytes == spare
    assert decision.tight == (spare < TIGHT_SHARE * budget)


def test_below_the_lowest_tier_there_may_be_room() -> None:
    assert not decide(request(cards(1, 16))).tight


def test_a_faster_alternative_of_the_leanest_plan_is_said_to_be_faster() -> None:
    decision = decide(request(cards(1, 48), prefer="memory"))
    (faster,) = (x for x in decision.alternatives if x.candidate.method == "qlora")
    longer = faster.candidate.ranking_time_s / decision.chosen.ranking_time_s - 1
    assert longer < -0.1
    assert faster.reason.startswith(f"fits; a step takes {-100 * longer:.0f} % less time, ")
    assert "sure" not in faster.reason


def test_a_preference_is_the_reason_for_leaner_methods_too() -> None:
    decision = decide(request(cards(1, 80, speed="a100-sxm-80gb"), prefer="speed"))
    others = [x for x in decision.alternatives if x.candidate.method != decision.chosen.method]
    fitting = [x for x in others if x.fits]
    assert fitting
    assert all(x.reason.endswith("--prefer speed chose another") for x in fitting)


def test_a_host_that_is_too_small_is_what_is_short() -> None:
    small = structs.replace(cards(1, 24), host_ram_bytes=64 * GIB)
    asked = request(small, model="qwen2.5-7b", method="full", offload="all")
    with pytest.raises(NothingFitsError) as error:
        decide(asked)
    text = str(error.value)
    assert "GiB of host memory at 2,048 tokens, and 64.00 GiB can be used: " in text
    assert "-" not in text.partition("can be used: ")[2].partition(" GiB short")[0]


def test_a_leaner_method_may_need_to_leave_offload_out() -> None:
    small = structs.replace(cards(1, 48), host_ram_bytes=64 * GIB)
    with pytest.raises(NothingFitsError) as error:
        decide(request(small, model="qwen2.5-32b", method="lora", offload="all"))
    assert str(error.value).endswith("--method qlora without --offload all fits.")


def test_memory_that_device_and_host_share_is_counted_once_for_both() -> None:
    shared = structs.replace(named_cluster(load_gpu("gb10"), 1), host_ram_bytes=119 * GIB)
    chosen = decide(
        request(shared, model="qwen2.5-1.5b", method="full", offload="optimizer")
    ).chosen
    assert chosen.host.node_bytes > 12 * chosen.workload.trainable_params
    assert (
        chosen.expected.device_used_bytes
        > chosen.footprint.peak_allocated_bytes + chosen.host.first_rank["train"]
    )
    apart = structs.replace(
        shared, accelerator=structs.replace(shared.accelerator, unified_memory=False)
    )
    device_alone = structs.replace(chosen, cluster=apart).memory
    assert chosen.memory.high_bytes - device_alone.high_bytes == chosen.host.beside(
        chosen.footprint
    )


def test_a_shortage_of_shared_memory_is_of_all_of_it_and_no_second_card_adds_to_it() -> None:
    shared = structs.replace(named_cluster(load_gpu("gb10"), 1), host_ram_bytes=119 * GIB)
    with pytest.raises(NothingFitsError) as error:
        decide(request(shared, model="qwen2.5-14b", method="full", offload="optimizer"))
    text = str(error.value)
    assert "of host memory" not in text
    assert "GiB of memory is free: " in text
    assert "cards" not in text
    richer = decide(request(shared, model="qwen2.5-14b", offload="optimizer")).richer
    assert richer is not None
    assert richer.endswith(" GiB more")


def test_a_limit_that_is_too_low_is_what_is_named() -> None:
    with pytest.raises(NothingFitsError) as error:
        decide(request(cards(1, 24), memory_limit_bytes=100 * MIB))
    assert "0.10 GiB of each GPU is allowed by --memory-limit" in str(error.value)
    assert str(error.value).endswith("Without --memory-limit it fits.")
