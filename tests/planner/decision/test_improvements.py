"""What would help: each row is what the planner says of a plan with that option; none is idle."""

import pytest

from planner.decision.choose import decide
from planner.decision.improvements import (
    MOST_SHOWN,
    TOLD_MEMORY,
    TOLD_SPEED,
    Improvement,
)
from planner.decision.request import Request
from planner.hardware.cluster import Cluster
from planner.plan.vocabulary import Method
from planner.search.candidate import Candidate
from tests.planner.builders import cards, request

ONE_CARD = cards(1, 24, speed="rtx-3090")


def by_option(asked: Request) -> tuple[Candidate, dict[str, Improvement]]:
    decision = decide(asked)
    return decision.chosen, {each.option: each for each in decision.improvements}


def per_token_s(candidate: Candidate) -> float:
    return candidate.usual_time_s / candidate.tokens_per_step


def assert_is(row: Improvement, other: Candidate, chosen: Candidate) -> None:
    assert row.memory_bytes == other.memory.high_bytes - chosen.memory.high_bytes
    assert row.speed == pytest.approx(per_token_s(chosen) / per_token_s(other) - 1)


def test_without_dropout_it_is_the_plan_with_its_option() -> None:
    chosen, rows = by_option(request(ONE_CARD))
    pinned = request(
        ONE_CARD,
        method="qlora",
        lora_dropout=0.0,
        activation_checkpointing=False,
        micro_batch_size=1,
    )
    assert_is(rows["--lora-dropout 0"], decide(pinned).chosen, chosen)


def test_recomputation_is_the_plan_with_its_option() -> None:
    chosen, rows = by_option(request(ONE_CARD))
    pinned = request(ONE_CARD, method="qlora", checkpoint_every=4)
    assert_is(rows["--checkpoint-every 4"], decide(pinned).chosen, chosen)


def test_a_richer_method_is_told_though_it_is_slower() -> None:
    chosen, rows = by_option(request(ONE_CARD))
    row = rows["--method lora"]
    assert row.speed < 0
    assert_is(row, decide(request(ONE_CARD, method="lora")).chosen, chosen)


def test_more_cards_are_at_least_as_fast_as_told() -> None:
    chosen, rows = by_option(request(ONE_CARD))
    (row,) = [each for option, each in rows.items() if option.startswith("--gpus 2x")]
    two = decide(request(cards(2, 24, speed="rtx-3090"), method="qlora")).chosen
    assert per_token_s(two) <= per_token_s(chosen) / (1 + row.speed) * 1.001


@pytest.mark.parametrize(
    ("where", "method"),
    [(ONE_CARD, None), (cards(8, 80, speed="rtx-3090"), "full"), (cards(2, 24), "lora")],
    ids=["one card", "eight cards", "two cards"],
)
def test_every_row_tells_and_the_best_is_first(where: Cluster, method: Method | None) -> None:
    asked = request(where, method=method)
    decision = decide(asked)
    rows = decision.improvements
    assert 0 < len(rows) <= MOST_SHOWN
    faster = [each.speed for each in rows if each.speed >= 0]
    assert faster == sorted(faster, reverse=True)
    for each in rows:
        saves = -each.memory_bytes >= TOLD_MEMORY * asked.budget_bytes
        fits = decision.chosen.memory.high_bytes + each.memory_bytes <= asked.budget_bytes
        assert fits
        assert each.speed >= TOLD_SPEED or saves or each.option.startswith("--method")


def test_what_is_not_there_cannot_be_left_out() -> None:
    _, rows = by_option(request(ONE_CARD, lora_dropout=0.0))
    assert "--lora-dropout 0" not in rows
