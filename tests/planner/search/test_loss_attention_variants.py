"""Loss and attention: tried where nobody stated them, and what saves pricing most of it."""

import random
from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError
from planner.base.units import GIB
from planner.decision.choose import decide
from planner.decision.requested_workload import open_choices, workload
from planner.hardware.cards import load_gpu
from planner.hardware.detect import parse_gpus
from planner.plan.vocabulary import METHODS, AttentionName, Method
from planner.recipes.load_recipe import load_recipe
from planner.search.candidate import Candidate
from planner.search.loss_attention_variants import Choice, variant_of
from planner.search.memory_bound import most_saved_bytes
from planner.search.time_bound import most_saved_s
from planner.workload.layout import Layout
from planner.workload.rules import broken_rule
from tests.planner.builders import cards, combination, request

CARDS = (None, "t4", "v100-32g", "a100-sxm-80gb", "rtx-4090", "h100-sxm-80gb")
MODELS = ("chatglm3-6b-base", "llama-3.2-1b", "gemma-2-2b", "qwen3-0.6b", "phi-4-mini-instruct")


def test_the_stock_loss_is_taken_where_it_lets_a_method_fit() -> None:
    """The fused loss adds up the head's gradient in fp32, which few logits do not outweigh."""
    decision = decide(request(cards(8, 80), model="yi-34b", method="full", strategy="zero3"))
    assert decision.chosen.departures == ("standard loss",)
    assert decision.chosen.workload.loss == "standard"
    assert decision.why.endswith("standard loss, since nothing fits as the recipe has it")
    (own,) = (x for x in decision.alternatives if x.reason.startswith("fused loss: does not fit"))
    assert own.candidate.memory.high_bytes > 80 * GIB
    assert {x.workload.loss for x in decision.fallbacks} <= {"standard"}


def test_it_is_taken_where_it_is_faster_by_what_can_be_told() -> None:
    asked = request(cards(1, 24), model="llama-3.2-1b", method="lora")
    chosen, fused = decide(asked).chosen, decide(structs.replace(asked, loss="fused")).chosen
    assert chosen.workload.loss == "standard"
    assert chosen.ranking_time_s * 1.02 < fused.ranking_time_s
    assert "faster than as the recipe has it" in decide(asked).why
    assert fused.departures == ()


def test_a_difference_that_cannot_be_told_changes_nothing() -> None:
    """Wherever the steps' borders lie."""
    asked = request(cards(1, 24, speed="rtx-4090"), method="qlora")
    fused, stock = (
        decide(structs.replace(asked, loss=loss)).chosen for loss in ("fused", "standard")
    )
    assert 1 < fused.ranking_time_s / stock.ranking_time_s < 1.02
    departing = structs.replace(stock, departures=("standard loss",))
    for moved in range(100):
        at = 1 + moved / 1000
        ours = fused.standing_at(fused.ranking_time_s * at)
        assert ours < departing.standing_at(stock.ranking_time_s * at)


def test_what_a_recipe_states_is_not_open() -> None:
    recipe = load_recipe("lora")
    asked = request(cards(1, 24), model="llama-3.2-1b", recipe=recipe)
    own = workload(asked, "lora")
    assert {choice.loss for choice in open_choices(asked, own)} == {"fused", "standard"}
    stated = structs.replace(asked, recipe=structs.replace(recipe, loss="fused"))
    assert {choice.loss for choice in open_choices(stated, own)} == {"fused"}
    assert decide(stated).chosen.workload.loss == "fused"


def test_attention_is_what_the_model_and_the_packages_have() -> None:
    only = request(cards(1, 24), model="gemma-2-2b", method="lora")
    choices = open_choices(only, workload(only, "lora"))
    assert {choice.attention for choice in choices} == {"eager"}
    with pytest.raises(InvalidRequestError, match="gemma2, which is planned only with eager"):
        decide(structs.replace(only, attention="sdpa"))
    with pytest.raises(InvalidRequestError, match="needs the package flash-attn"):
        decide(request(cards(1, 24), attention="flash_attention_2"))


def test_eager_attention_is_obeyed_where_it_is_asked_for() -> None:
    asked = request(cards(1, 24, speed="rtx-4090"), method="qlora")
    assert decide(structs.replace(asked, attention="eager")).chosen.workload.attention == "eager"
    rejected = decide(asked).rejected
    assert any("holds the whole matrix of scores" in reason for reason in rejected)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_no_plan_has_attention_that_launch_cannot_run(name: AttentionName) -> None:
    assert (
        broken_rule(combination(attention=name), pinned=frozenset({"strategy", "attention"}))
        is not None
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_bounds_of_the_stock_loss_hold(seed: int) -> None:
    """It never saves more time or memory than is said without running a layer."""
    fused, stock = pair(random.Random(seed))
    saved_s = fused.ranking_time_s - stock.ranking_time_s
    assert saved_s <= most_saved_s(fused)
    saved = fused.memory.peak_allocated_bytes - stock.memory.peak_allocated_bytes
    assert saved <= most_saved_bytes(stock.workload, fused)


@pytest.mark.parametrize("length", [64, 1024, 4096])
@pytest.mark.parametrize("method", METHODS)
def test_so_do_those_of_the_fused_loss_on_the_cpu(method: Method, length: int) -> None:
    asked = request(parse_gpus("cpu"), model="smollm2-135m", method=method, sequence_length=length)
    own = workload(asked, method)
    other = variant_of(own, Choice(loss="fused", attention="sdpa")).workload
    for samples in (1, 2, 8):
        layout = Layout(
            strategy="single",
            world_size=1,
            micro_batch_size=samples,
            gradient_accumulation_steps=2,
            activation_checkpointing=False,
        )
        stock = Candidate(workload=own, layout=layout, cluster=asked.cluster)
        fused = structs.replace(stock, workload=other)
        assert stock.workload.settings.loss == "standard"
        assert stock.ranking_time_s - fused.ranking_time_s <= most_saved_s(stock)
        saved = stock.memory.peak_allocated_bytes - fused.memory.peak_allocated_bytes
        assert saved <= most_saved_bytes(other, stock)


def pair(source: random.Random) -> tuple[Candidate, Candidate]:
    """One layout with either loss."""
    method, ranks = source.choice(METHODS), source.choice([1, 2])
    card = source.choice(CARDS)
    bf16 = card is None or float(load_gpu(card).compute_capability) >= 8
    pinned: dict[str, Any] = {
        "model": source.choice(MODELS),
        "sequence_length": source.choice([64, 500, 1024, 2048]),
        "precision": source.choice(["bf16" if bf16 else "fp16", "fp32"]),
        "loss": "fused",
    }
    asked = request(cards(ranks, 80, speed=card), **pinned)
    checkpointing = source.choice([0, 1, 4])
    layout = Layout(
        strategy="single" if ranks == 1 else source.choice(["ddp", "zero2", "zero3"]),
        world_size=ranks,
        micro_batch_size=source.choice([1, 2, 3, 8]),
        gradient_accumulation_steps=source.choice([1, 4]),
        activation_checkpointing=checkpointing > 0,
        checkpoint_every=checkpointing or 1,
    )
    own = workload(asked, method)
    other = variant_of(own, Choice(loss="standard", attention=own.attention)).workload
    fused = Candidate(workload=own, layout=layout, cluster=asked.cluster)
    return fused, structs.replace(fused, workload=other)
