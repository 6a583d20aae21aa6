"""Laws that every prediction obeys: more of anything never needs less, shares are no wholes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from planner.base.units import ALLOCATOR_BLOCK_BYTES
from planner.forward.model_pass import ModelPass, passed_layers
from planner.memory.footprint import Footprint, footprint, worst_batch
from planner.memory.micro_batch import largest_moment, micro_batch
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.vocabulary import PHASES, Part, Strategy
from planner.recipes.load_recipe import load_recipe
from planner.recipes.recipe import Recipe
from planner.workload.dtypes import numerics
from planner.workload.layout import Layout
from planner.workload.settings import settings_of
from planner.workload.workload import Workload

MODELS = ("chatglm3-6b-base", "llama-3.1-8b", "gemma-2-2b", "qwen3-30b-a3b")
RECIPES = ("qlora", "qlora-int8", "lora", "full")
STRATEGIES: tuple[Strategy, ...] = ("single", "ddp", "zero1", "zero2", "zero3")


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return structs.replace(load_model(name).spec, num_layers=8, **changes)


def recipe_of(name: str, *, length: int = 512, rank: int = 16) -> Recipe:
    recipe = structs.replace(load_recipe(name), sequence_length=length)
    if recipe.adapter is None:
        return recipe
    adapter = structs.replace(recipe.adapter, rank=rank)
    return structs.replace(recipe, adapter=adapter)


def layout_of(
    strategy: Strategy, *, samples: int = 1, checkpointing: int = 0, ranks: int = 4
) -> Layout:
    return Layout(
        strategy=strategy,
        world_size=1 if strategy == "single" else ranks,
        micro_batch_size=samples,
        gradient_accumulation_steps=2,
        activation_checkpointing=checkpointing > 0,
        checkpoint_every=checkpointing or 1,
    )


def predicted(spec: ModelSpec, recipe: Recipe, layout: Layout) -> Footprint:
    return footprint(
        Workload(model=spec, settings=settings_of(recipe), compute="bf16"), layout, "cuda"
    )


points = given(
    name=st.sampled_from(MODELS),
    recipe=st.sampled_from(RECIPES),
    strategy=st.sampled_from(STRATEGIES),
    checkpointing=st.sampled_from([0, 1, 2]),
)
few = settings(max_examples=25, deadline=None)


@few
@points
def test_more_never_needs_less(
    name: str, recipe: str, strategy: Strategy, checkpointing: int
) -> None:
    spec, trained = spec_of(name), recipe_of(recipe)
    layout = layout_of(strategy, checkpointing=checkpointing)
    here = predicted(spec, trained, layout).peak_allocated_bytes
    more = {
        "samples": (spec, trained, layout_of(strategy, samples=3, checkpointing=checkpointing)),
        "length": (spec, recipe_of(recipe, length=1024), layout),
        "rank": (spec, recipe_of(recipe, rank=64), layout),
        "layers": (structs.replace(spec, num_layers=12), trained, layout),
        "hidden size": (
            structs.replace(spec, hidden_size=spec.hidden_size + 512),
            trained,
            layout,
        ),
    }
    for what, larger in more.items():
        assert predicted(*larger).peak_allocated_bytes >= here, what


@few
@points
def test_parts_sum_to_totals_and_are_never_negative(
    name: str, recipe: str, strategy: Strategy, checkpointing: int
) -> None:
    result = predicted(
        spec_of(name), recipe_of(recipe), layout_of(strategy, checkpointing=checkpointing)
    )
    for phase in PHASES:
        parts = result.phases[phase]
        assert result.total_bytes(phase) == sum(parts.values())
        assert min(parts.values()) >= 0
    assert result.peak_allocated_bytes == max(map(result.total_bytes, PHASES))


@few
@given(
    name=st.sampled_from(MODELS),
    recipe=st.sampled_from(RECIPES),
    ranks=st.sampled_from([2, 3, 8, 64]),
)
def test_a_higher_stage_holds_no_more_states_and_a_shard_no_more_than_the_whole(
    name: str, recipe: str, ranks: int
) -> None:
    """Of the model's states alone: a stage's buckets, and the layers that stage 3 gathers, may
    outweigh what it shards of a few adapters. A flat group is padded until every rank has an
    equal part of it, a block at the most; there are two: what decays and what does not."""

    def states(strategy: Strategy, over: int) -> dict[Part, int]:
        layout = layout_of(strategy, ranks=over)
        parts = predicted(spec_of(name), recipe_of(recipe), layout).phases["optimizer_step"]
        kinds: tuple[Part, ...] = ("weights", "adapters", "gradients", "optimizer_states")
        return {kind: parts.get(kind, 0) for kind in kinds}

    stages: tuple[Strategy, ...] = ("zero1", "zero2", "zero3")
    totals = [sum(states(strategy, ranks).values()) for strategy in stages]
    assert totals == sorted(totals, reverse=True)
    for strategy in stages:
        whole, shard = states(strategy, 1), states(strategy, ranks)
        assert all(shard[kind] <= whole[kind] + 2 * ALLOCATOR_BLOCK_BYTES for kind in whole)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("strategy", "ranks"), [("single", 1), ("zero2", 2), ("zero3", 2)])
def test_the_fewer_layers_recompute_the_more_is_kept(
    name: str, recipe: str, strategy: Strategy, ranks: int
) -> None:
    peaks = [
        predicted(
            spec_of(name), recipe_of(recipe), layout_of(strategy, ranks=ranks, checkpointing=every)
        ).peak_allocated_bytes
        for every in (1, 2, 4, 0)
    ]
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("name", [*MODELS, "bloom-560m"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("checkpointing", [0, 1, 2, 3])
def test_layers_laid_end_to_end_are_the_whole_model(
    name: str, recipe: str, checkpointing: int
) -> None:
    """One run of each kind of layer gives what running every layer gives."""
    work = Workload(model=spec_of(name), settings=settings_of(recipe_of(recipe)), compute="bf16")
    batch = worst_batch(work, layout_of("single", samples=2), "cuda")
    kinds = numerics(method=work.method, compute="bf16", zero_stage=0)
    whole = ModelPass(
        work, batch, kinds, layers=passed_layers(work.model, checkpointing), sink="keep"
    )
    log = whole.tape.log
    peak = sum(num_bytes for num_bytes, *_ in log[: largest_moment(log)])
    alive = micro_batch(work, batch, kinds, checkpointing=checkpointing, sink="keep")
    assert max(sum(alive.forward.values()), sum(alive.backward.values())) == pytest.approx(
        peak, rel=1e-3
    )
