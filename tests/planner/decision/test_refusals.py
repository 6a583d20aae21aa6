"""A refusal by rule names the options that the rule is about, and no rule that nobody met."""

from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError
from planner.decision.choose import decide
from planner.decision.method_search import possible_methods
from planner.hardware.cards import load_gpu, named_cluster
from planner.hardware.cluster import Cluster
from planner.hardware.detect import parse_gpus
from planner.plan.bounds import FEWEST_TOKENS, MOST_SAMPLES
from planner.recipes.load_recipe import load_recipe
from planner.workload.rules import rule_book
from tests.planner.builders import cards, request

FOUR = cards(4, 80)
REFUSED: list[tuple[Cluster, dict[str, Any], str, str, str]] = [
    (
        named_cluster(load_gpu("v100-sxm2-16gb"), 1),
        {"recipe": load_recipe("qlora-int8")},
        "--recipe qlora-int8 cannot be combined with Tesla V100-SXM2-16GB: ",
        "int8-before-turing",
        "Take another --recipe",
    ),
    (
        FOUR,
        {"zero_stage": 3, "method": "qlora"},
        "--zero-stage 3 cannot be combined with --method qlora: ",
        "qlora-zero3",
        "Leave one of the two out",
    ),
    (
        cards(1, 80),
        {"offload": "all", "method": "qlora"},
        "--offload all cannot be combined with --method qlora: ",
        "qlora-zero3",
        "Leave one of the two out",
    ),
    (
        cards(1, 24),
        {"attention": "flash_attention_2"},
        "--attention flash_attention_2: ",
        "attention-packages",
        "Leave it out",
    ),
    (
        cards(1, 24),
        {"attention": "flex_attention", "method": "lora"},
        "--attention flex_attention: ",
        "attention-compiled",
        "Leave it out",
    ),
    (
        FOUR,
        {"model": "falcon-7b", "method": "qlora"},
        "--method qlora cannot be combined with falcon-7b: ",
        "qlora-falcon",
        "Take another --method",
    ),
    (
        FOUR,
        {"model": "gpt-oss-20b", "packing": True},
        "--packing cannot be combined with gpt-oss-20b: ",
        "packing-without-positions",
        "Leave it out",
    ),
    (
        FOUR,
        {"model": "bloom-560m", "packing": True, "method": "lora"},
        "--packing cannot be combined with bloom-560m: ",
        "packing-without-positions",
        "Leave it out",
    ),
    (
        parse_gpus("cpu"),
        {"model": "smollm2-135m", "optimizer": "adamw_8bit"},
        "--optimizer adamw_8bit cannot be combined with the CPU: ",
        "bitsandbytes-cpu",
        "Leave it out",
    ),
    (
        FOUR,
        {"optimizer": "adafactor", "zero_stage": 2},
        "--zero-stage 2 cannot be combined with --optimizer adafactor: ",
        "whole-tensors-zero",
        "Leave one of the two out",
    ),
    (
        FOUR,
        {"optimizer": "sgd", "offload": "optimizer", "method": "full"},
        "--offload optimizer cannot be combined with --optimizer sgd: ",
        "offloaded-other-optimizer",
        "Leave one of the two out",
    ),
]

EACH = pytest.mark.parametrize(
    ("where", "pinned", "start", "rule", "end"),
    REFUSED,
    ids=[start for _, _, start, _, _ in REFUSED],
)


@EACH
def test_the_rule_that_the_options_meet(
    where: Cluster, pinned: dict[str, Any], start: str, rule: str, end: str
) -> None:
    with pytest.raises(InvalidRequestError) as error:
        decide(request(where, **pinned))
    (reason,) = (each.reason for each in rule_book() if each.name == rule)
    assert str(error.value) == f"{start}{reason}. {end}"


@EACH
def test_without_what_it_names_a_layout_is_left(
    where: Cluster, pinned: dict[str, Any], start: str, rule: str, end: str
) -> None:
    """The option named first is one that the refusal hangs on."""
    first = start.split()[0].removeprefix("--").rstrip(":").replace("-", "_")
    assert possible_methods(request(where, **{**pinned, first: None})), (rule, end)


def test_options_that_leave_no_layout_are_listed() -> None:
    with pytest.raises(InvalidRequestError) as error:
        decide(request(cards(1, 80), method="full", offload="optimizer", zero_stage=3))
    assert str(error.value) == (
        "no layout satisfies all the options you set: --zero-stage 3, --offload optimizer. "
        "Leave one of them out"
    )


def test_a_step_of_more_samples_than_a_plan_may_have_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as error:
        decide(request(cards(8, 80), micro_batch_size=MOST_SAMPLES))
    assert str(error.value) == (
        "a step of 8 GPUs would have 134,217,728 samples, and at most 16,777,216 are planned: "
        "choose a smaller --micro-batch-size"
    )


def test_a_model_of_one_position_cannot_be_trained() -> None:
    asked = request(cards(8, 80), memory_limit_bytes=0)
    spec = structs.replace(asked.model.spec, max_position_embeddings=1)
    model = structs.replace(asked.model, spec=spec)
    with pytest.raises(InvalidRequestError, match="has 1 position, and training needs 2: a token"):
        decide(structs.replace(asked, model=model))


def test_the_shortest_sample_is_priced() -> None:
    """One token is scored, where there may be none."""
    decision = decide(request(cards(8, 80), sequence_length=FEWEST_TOKENS))
    assert decision.chosen.workload.settings.sequence_length == FEWEST_TOKENS
