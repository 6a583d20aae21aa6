"""Combinations that the rules leave out."""

import pytest

from planner.base.errors import InvalidRequestError
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.models.model_presets import load_model
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import Method
from planner.workload.rules import broken_rule, rule_book
from tests.planner.builders import cards, combination


@pytest.mark.parametrize(
    ("method", "model_type", "broken"),
    [
        ("qlora", "falcon", True),
        ("lora", "falcon", False),
        ("qlora", "gpt_oss", False),
        ("qlora", "llama", False),
    ],
)
def test_some_models_are_not_quantized(method: Method, model_type: str, broken: bool) -> None:
    """Falcon's linear layers are a class of their own, which transformers leaves in 16 bit."""
    asked = combination(method=method, model_type=model_type)
    assert (broken_rule(asked, pinned=frozenset()) is not None) == broken


def test_what_no_layout_allows_says_why() -> None:
    request = Request(model=load_model("falcon-7b"), cluster=cards(1, 80), method="qlora")
    with pytest.raises(InvalidRequestError, match="leaves Falcon's own linear layers in 16 bit"):
        decide(request)


def test_bloom_has_one_kind_of_attention() -> None:
    request = Request(model=load_model("bloom-560m"), cluster=cards(1, 24), method="lora")
    assert decide(request).chosen.workload.attention == "eager"


def test_offload_does_not_change_the_optimizer_unasked() -> None:
    """accelerate would put DeepSpeed's Adam in place of any other."""
    asked = Request(
        model=load_model("qwen2.5-7b"),
        cluster=cards(1, 24),
        method="full",
        offload="optimizer",
        optimizer="sgd",
    )
    with pytest.raises(
        InvalidRequestError, match="--offload optimizer cannot be combined with --opt"
    ):
        decide(asked)


def test_what_is_offloaded_is_not_in_pure_bf16() -> None:
    """accelerate makes DeepSpeed's Adam with fp32 states."""
    asked = Request(
        model=load_model("qwen2.5-7b"),
        cluster=cards(1, 24),
        method="full",
        offload="optimizer",
        precision="pure-bf16",
    )
    with pytest.raises(
        InvalidRequestError, match="--offload optimizer cannot be combined with --precision pure"
    ):
        decide(asked)


def test_rules_name_optimizers_that_exist() -> None:
    whens = [rule.when for rule in rule_book()]
    named = [
        name for when in whens for name in [*(when.optimizer or []), *when.optimizer_other_than]
    ]
    assert named
    assert set(named) <= set(optimizers())
