"""Adapters on routed experts, asked for by name."""

from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, NothingFitsError
from planner.decision.choose import Decision, decide
from planner.decision.request import Request
from planner.models.model_presets import load_model
from planner.plan.vocabulary import Method
from planner.recipes.load_recipe import load_recipe
from tests.planner.builders import cards

BOTH = ("experts.gate_up_proj", "experts.down_proj")


def decided(model: str = "olmoe-1b-7b", **asked: Any) -> Decision:
    return decide(Request(model=load_model(model), cluster=cards(1, 80), **asked))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_experts_get_adapters_where_they_are_asked_for(method: Method) -> None:
    """Rank 8 of 64 experts in 16 layers, whose matrices are (2,048, 2 * 1,024) and back."""
    usual = decided(method=method, lora_rank=8).chosen
    work = decided(
        method=method, lora_targets=("all-linear", "experts"), lora_rank=8, lora_dropout=0.0
    ).chosen.workload
    assert work.settings.adapter is not None
    assert usual.workload.settings.adapter is not None
    assert work.settings.adapter.target_modules == usual.workload.settings.adapter.target_modules
    assert work.settings.adapter.target_parameters == BOTH
    assert usual.workload.settings.adapter.target_parameters == ()
    of_experts = 16 * 64 * 8 * (2048 + 2048 + 1024 + 2048)
    assert work.trainable_params == usual.workload.trainable_params + of_experts
    packed = ", in 4 bit, and unpacked for each product" if method == "qlora" else ""
    assert work.experts_note == (
        "6.44 B parameters of routed experts are frozen, each expert with adapters on "
        f"experts.gate_up_proj, experts.down_proj{packed}"
    )


def test_a_recipe_may_ask_for_them() -> None:
    """Of a model without experts it adapts the matrices alone."""
    recipe = load_recipe("lora")
    assert recipe.adapter is not None
    adapter = structs.replace(recipe.adapter, dropout=0.0, target_parameters=("experts",))
    recipe = structs.replace(recipe, adapter=adapter)
    for model, tensors in (("olmoe-1b-7b", BOTH), ("smollm2-135m", ())):
        settings = decided(model, recipe=recipe).chosen.workload.settings
        assert settings.adapter is not None
        assert settings.adapter.target_parameters == tensors
        assert settings.adapter.target_modules


def test_experts_alone() -> None:
    settings = decided(
        method="lora", lora_targets=("experts.down_proj",), lora_dropout=0.0
    ).chosen.workload.settings
    assert settings.adapter is not None
    assert settings.adapter.targets == ("experts.down_proj",)


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        ("olmoe-1b-7b", {}, "without dropout, and qlora has 0.1: give --lora-dropout 0"),
        ("olmoe-1b-7b", {"recipe": load_recipe("dora")}, "without DoRA, which dora has"),
        ("olmoe-1b-7b", {"lora_dropout": 0.0, "lora_rank": 12}, "that 8 divides, and qlora has 12"),
        ("smollm2-135m", {"lora_dropout": 0.0}, "smollm2-135m has no routed experts that"),
        (
            "llama-4-scout-17b-16e",
            {"lora_dropout": 0.0},
            "no routed experts that adapters are planned on",
        ),
    ],
)
def test_what_peft_has_not_is_refused(model: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decided(model, lora_targets=("all-linear", "experts"), **asked)


def test_a_way_out_has_a_rank_that_experts_can_have() -> None:
    """12 GiB are too few at any rank; 4 is none of those that are tried."""
    request = Request(
        model=load_model("qwen3-30b-a3b"),
        cluster=cards(1, 12),
        lora_targets=("all-linear", "experts"),
        lora_dropout=0.0,
        lora_rank=16,
    )
    with pytest.raises(NothingFitsError, match="qwen3-30b-a3b does not fit"):
        decide(request)
