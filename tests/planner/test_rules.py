"""Combinations that the rules leave out."""

from dataclasses import replace

import pytest

from planner.choose import decide
from planner.errors import InvalidRequestError
from planner.presets import load_model
from planner.request import Request
from planner.rules import Combination, broken_rule
from tests.planner.builders import cards


def test_falcon_is_not_quantized() -> None:
    """Its linear layers are a class of their own, which transformers leaves in 16 bit."""
    falcon = Combination(
        method="qlora",
        strategy="single",
        optimizer="adamw_torch_fused",
        device="cuda",
        model_type="falcon",
    )
    assert broken_rule(falcon, pinned=False) is not None
    assert broken_rule(replace(falcon, method="lora"), pinned=False) is None
    assert broken_rule(replace(falcon, model_type="llama"), pinned=False) is None


def test_what_no_layout_allows_says_why() -> None:
    request = Request(model=load_model("falcon-7b"), cluster=cards(1, 80), method="qlora")
    with pytest.raises(InvalidRequestError, match="leaves Falcon's own linear layers in 16 bit"):
        decide(request)


def test_bloom_has_one_kind_of_attention() -> None:
    request = Request(model=load_model("bloom-560m"), cluster=cards(1, 24), method="lora")
    assert decide(request).chosen.workload.attention == "eager"
