"""Passes through all layers that few stand for are those that all layers make."""

from typing import Any, cast

import pytest
from msgspec import structs

from planner.allocator.all_layers import period_of, standing_for, through_all_layers
from planner.allocator.pass_trace import PassTrace, trace_of
from planner.forward.model_pass import passed_layers
from planner.models.model_presets import load_model
from planner.plan.vocabulary import Loss, Method
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import numerics
from planner.workload.settings import settings_of
from planner.workload.workload import Batch, Workload


def traces(
    model: str,
    method: Method,
    *,
    checkpointing: int = 0,
    bucket_size: int | None = None,
    loss: Loss = "fused",
) -> tuple[PassTrace | None, PassTrace]:
    """A pass as few layers make it, and as all do."""
    settings = settings_of(structs.replace(load_recipe(method), loss=loss))
    work = Workload(model=load_model(model).spec, settings=settings, compute="bf16")
    batch = Batch(micro_batch_size=2, sequence_length=512, masked=True)
    kinds = numerics(method=method, compute="bf16", zero_stage=2 if bucket_size else 0)
    layers = passed_layers(work.model, checkpointing)
    numbers = standing_for(layers)
    assert numbers is not None
    run = [layers[numbers.index(number)] for number in range(1 + max(numbers))]
    few = trace_of(work, batch, kinds, run, bucket_size=bucket_size)
    whole = trace_of(work, batch, kinds, layers, bucket_size=bucket_size)
    return through_all_layers(few, numbers), whole


CASES: list[tuple[str, Method, dict[str, Any]]] = [
    ("smollm2-135m", "full", {}),
    ("chatglm3-6b-base", "qlora", {}),
    ("chatglm3-6b-base", "lora", {"checkpointing": 1, "loss": "standard"}),
    ("smollm2-135m", "full", {"bucket_size": 10**6}),
    ("smollm2-135m", "lora", {"checkpointing": 2}),
    ("gemma-2-2b", "full", {"checkpointing": 1}),
    ("qwen3-30b-a3b", "lora", {"checkpointing": 4}),
    ("bloom-560m", "full", {"checkpointing": 1, "loss": "standard"}),
    ("gpt2", "full", {"loss": "standard"}),
]


@pytest.mark.parametrize(("model", "method", "settings"), CASES)
def test_few_layers_make_what_all_make(
    model: str, method: Method, settings: dict[str, Any]
) -> None:
    laid, whole = traces(model, method, **settings)
    assert laid is not None
    assert structs.replace(laid, weights=whole.weights) == whole


@pytest.mark.parametrize(
    ("layers", "period", "numbers"),
    [
        ("abbbbbbb", 1, [0, 1, 2, 2, 2, 2, 2, 3]),
        ("aababababababababa", 2, [0, 1, 2, *[3, 4] * 6, 5, 6, 7]),
        ("abbbb", 1, None),
        ("abcdefgh", 7, None),
        ("a", None, None),
    ],
)
def test_what_repeats_is_found(layers: str, period: int | None, numbers: list[int] | None) -> None:
    """Layers are letters here."""
    if period is not None:
        assert period_of(cast(Any, [*layers])) == period
    assert standing_for(cast(Any, [*layers])) == numbers


def test_storages_that_do_not_repeat_are_noticed() -> None:
    """A layer's that the end of the pass frees, as what all layers share."""
    _, whole = traces("gpt2", "full", loss="standard")
    few = structs.replace(whole)
    end = len(few.changes) - 1
    moved = next(place for place, (size, _) in enumerate(few.changes) if size < 0)
    changes = [*few.changes]
    changes[moved], changes[end] = changes[end], changes[moved]
    assert through_all_layers(structs.replace(few, changes=changes), [*range(12)]) is None
