"""What a plan changes in a recipe, with reasons that are its own."""

from typing import Any

import pytest

from planner.decision.choose import decide
from planner.recipes.load_recipe import load_recipe
from planner.report.recipe_changes import changes
from tests.planner.builders import cards, request

XTUNER = "chatglm3_6b_base_qlora_alpaca_zh_e3"


@pytest.mark.parametrize(
    ("count", "pinned", "said", "not_said"),
    [
        (3, {}, "18 samples per step instead of 16, so that every GPU has as many", "full"),
        (1, {"global_batch_size": 32}, "32 samples per step instead of 16", "every"),
        (
            1,
            {"micro_batch_size": 3},
            "18 samples per step instead of 16, so that every micro-batch is full",
            "every GPU",
        ),
        (1, {"activation_checkpointing": False}, "activations are kept", "which is faster"),
        (1, {}, "activations are kept, which is faster and fits", "instead of"),
        (1, {"precision": "fp32"}, "fp16 becomes fp32", "multiplies"),
        (1, {}, "fp16 becomes bf16, which this device multiplies in", "instead of"),
        (1, {"sequence_length": 512}, "512 tokens per sample instead of 2,048", "a sample"),
        (1, {"method": "lora"}, "its base is not quantized", "instead of"),
    ],
)
def test_changes_and_their_reasons(
    count: int, pinned: dict[str, Any], said: str, not_said: str
) -> None:
    recipe = load_recipe(XTUNER)
    asked = request(cards(count, 48), recipe=recipe, **pinned)
    sentences = list(changes(asked, recipe, decide(asked).chosen))
    assert any(sentence.endswith(said) for sentence in sentences), sentences
    assert not any(not_said in sentence for sentence in sentences), sentences
