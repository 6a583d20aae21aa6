"""Optimizers as data: laws of their states, and combinations that are left out."""

from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, NothingFitsError, UnknownNameError
from planner.decision.choose import decide
from planner.memory.footprint import footprint
from planner.models.model_presets import load_model
from planner.plan.optimizer_presets import optimizer_name, optimizers
from planner.plan.vocabulary import METHODS, Method
from tests.planner.builders import cards, request
from tests.planner.memory.test_footprint import layout, workload


def states(method: Method, name: str) -> int:
    work = workload(method)
    changed = structs.replace(work.settings.optimizer, name=name)
    work = work.with_settings(optimizer=changed)
    return footprint(work, layout(), "cuda").phases["optimizer_step"]["optimizer_states"]


@pytest.mark.parametrize("method", METHODS)
def test_leaner_optimizers_keep_less(method: Method) -> None:
    leaner_first: list[tuple[str, ...]] = [
        ("sgd", "adafactor", "lion_8bit", "adamw_8bit", "adamw_torch", "adamw_torch_fused"),
        ("lion_8bit", "lion_32bit", "adamw_torch"),
        ("adamw_torch_4bit", "adamw_torch_8bit", "adamw_torch"),
        ("paged_adamw_8bit", "adamw_8bit"),
        ("paged_adamw_32bit", "adamw_torch"),
        ("paged_lion_8bit", "lion_8bit"),
        ("paged_lion_32bit", "lion_32bit"),
    ]
    for names in leaner_first:
        kept = [states(method, name) for name in names]
        assert kept == sorted(kept)
        assert kept[0] < kept[-1]


@pytest.mark.parametrize("name", optimizers())
def test_hyphens_are_underscores(name: str) -> None:
    assert optimizer_name(name.replace("_", "-").upper()) == name


def test_every_name_of_transformers_is_an_optimizer_or_told_what_to_take() -> None:
    training_args = pytest.importorskip("transformers.training_args")
    for name in (known.value for known in training_args.OptimizerNames):
        try:
            assert optimizer_name(name) in optimizers()
        except InvalidRequestError as refused:
            taken = str(refused).rpartition("Take ")[2]
            assert taken in optimizers(), name


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'paged_adamw_8bit'"):
        optimizer_name("paged_adam_8bit")


def test_the_plan_has_the_optimizer_that_was_asked_for() -> None:
    chosen = decide(request(cards(1, 24), optimizer="paged_adamw_8bit")).chosen
    assert chosen.workload.settings.optimizer.name == "paged_adamw_8bit"


@pytest.mark.parametrize(("name", "kind"), [("sgd", "cosine"), ("schedule_free_sgd", "constant")])
def test_where_weights_are_averaged_the_learning_rate_does_not_fall(name: str, kind: str) -> None:
    chosen = decide(request(cards(1, 24), optimizer=name)).chosen
    schedule = chosen.workload.settings.schedule
    assert (schedule.kind, schedule.warmup_ratio > 0) == (kind, True)


def test_a_plan_states_no_weight_decay_that_is_not_handed_on() -> None:
    chosen = decide(
        request(cards(1, 24), method="full", model="qwen2.5-0.5b", optimizer="apollo_adamw")
    )
    section = chosen.chosen.workload.settings.optimizer
    assert section.weight_decay == 0
    with pytest.raises(ValueError, match="no weight decay"):
        structs.replace(section, weight_decay=0.1)


def test_paged_states_are_the_hosts() -> None:
    """Of an eight-bit optimizer all matrices are paged, two bytes an element."""
    pinned: dict[str, Any] = {"method": "full", "model": "qwen2.5-0.5b"}
    plain, paged = (
        decide(request(cards(1, 24), optimizer=name, **pinned)).chosen.host.node_bytes
        for name in ("adamw_8bit", "paged_adamw_8bit")
    )
    model = load_model("qwen2.5-0.5b").spec
    assert paged - plain == pytest.approx(
        2 * model.matrix_params + 8 * model.embedding_params, rel=0.01
    )


def test_bitsandbytes_yields_to_a_strategy_that_is_asked_for() -> None:
    pinned: dict[str, Any] = {"method": "full", "model": "qwen2.5-0.5b", "optimizer": "adamw_8bit"}
    open_choice = decide(request(cards(2, 80), **pinned))
    assert open_choice.chosen.layout.strategy == "ddp"
    assert any("has not tested" in rule for rule in open_choice.rejected)
    asked = decide(request(cards(2, 80), zero_stage=2, **pinned))
    assert asked.chosen.layout.strategy == "zero2"


@pytest.mark.parametrize(
    ("model", "name"), [("tinyllama-1.1b", "adamw_8bit"), ("qwen2.5-1.5b", "paged_adamw_8bit")]
)
def test_states_in_8_bit_are_taken_where_nothing_else_fits(model: str, name: str) -> None:
    """It changes the mathematics, so the reason says it."""
    pinned: dict[str, Any] = {"model": model, "method": "full", "sequence_length": 512}
    decision = decide(request(cards(1, 16), **pinned))
    assert decision.chosen.workload.settings.optimizer.name == name
    assert f"{name} (8-bit states)" in decision.why
    with pytest.raises(NothingFitsError):
        decide(request(cards(1, 16), optimizer="adamw_torch_fused", **pinned))


def test_adafactor_cannot_be_combined_with_zero() -> None:
    with pytest.raises(InvalidRequestError, match="--zero-stage 2 cannot be combined with --opt"):
        decide(request(cards(2, 80), method="full", zero_stage=2, optimizer="adafactor"))
