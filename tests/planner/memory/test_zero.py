"""DeepSpeed's sizes by hand; tests/oracle/test_zero.py holds them to DeepSpeed itself."""

from functools import partial

import pytest
from msgspec import structs

from planner.base.preset_files import preset_names
from planner.base.units import GIB
from planner.memory import zero_3_gathering as gathering
from planner.memory.footprint import footprint
from planner.memory.host import host_memory, pinned
from planner.memory.zero_1_2 import partition
from planner.memory.zero_3 import sub_groups
from planner.memory.zero_reductions import reductions
from planner.models.model_presets import load_model
from planner.plan.vocabulary import Offload, Strategy
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import numerics
from planner.workload.layout import Layout
from planner.workload.parameters import Sized, parameters
from planner.workload.settings import settings_of
from planner.workload.workload import Workload
from planner.workload.zero_sizes import zero_section
from tests.planner.builders import cards

FULL = Workload(
    model=load_model("chatglm3-6b-base").spec,
    settings=settings_of(load_recipe("full")),
    compute="bf16",
)
GROUP = (Sized("a", (5,), True), Sized("b", (8,), True), Sized("c", (2,), True))


def layout(strategy: Strategy, *, ranks: int, offload: Offload = "none", steps: int = 1) -> Layout:
    return Layout(
        strategy=strategy,
        world_size=ranks,
        micro_batch_size=1,
        gradient_accumulation_steps=steps,
        activation_checkpointing=True,
        offload=offload,
    )


def test_a_group_is_flat_padded_and_cut() -> None:
    """15 elements for two ranks: 16, a rank 8; ``b`` lies in both parts."""
    cut = partition(GROUP, 2)
    assert (cut.flat, cut.part) == (16, 8)
    assert cut.touched == (13, 10)
    assert (cut.pieces, cut.largest) == ((5, 5), 8)


def test_sub_groups_close_when_they_are_full() -> None:
    assert list(sub_groups(GROUP, 1, 6)) == [13, 2]
    assert list(sub_groups(GROUP, 2, 100)) == [8]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_parameter_is_named_once(method: str) -> None:
    work = structs.replace(FULL, settings=settings_of(load_recipe(method)))
    every = list(parameters(work))
    assert len({each.name for each in every}) == len(every)
    adapters = work.adapter_params
    assert sum(each.elements for each in every) == work.model.num_params + adapters
    assert sum(each.elements for each in every if each.trains) == work.trainable_params


def test_zero1_gives_back_all_that_it_has_added_up() -> None:
    """With accumulation every gradient is there when backward begins, and no other is after it."""
    zero = zero_section(FULL, layout("zero1", ranks=4))
    assert zero is not None
    kinds = numerics(method="full", compute="bf16", zero_stage=1)
    ranks = reductions(FULL, 4, zero, kinds, stage=1, accumulates=True, offloaded=False)
    others_large = [sum(rank.freed) for rank in ranks]
    assert max(others_large) <= 2 * FULL.trainable_params
    assert len(ranks[0].gained) == FULL.model.num_layers + 3


@pytest.mark.parametrize(
    ("strategy", "offload"), [("zero2", "optimizer"), ("zero3", "optimizer"), ("zero3", "all")]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_offload_frees_the_device_and_fills_the_host(
    strategy: Strategy, offload: Offload, steps: int
) -> None:
    here = footprint(FULL, layout(strategy, ranks=2, steps=steps), "cuda")
    there = layout(strategy, ranks=2, offload=offload, steps=steps)
    freed = footprint(FULL, there, "cuda")
    assert freed.peak_allocated_bytes < here.peak_allocated_bytes
    assert freed.phases["optimizer_step"]["optimizer_states"] == 0
    assert freed.phases["forward"]["weights"] == (
        0 if offload == "all" else here.phases["forward"]["weights"]
    )
    host = host_memory(FULL, there, cards(2, 80), peak_allocated_bytes=0)
    states = 16 * FULL.trainable_params
    assert states < host.node_bytes < 3 * states


def test_pinned_blocks_are_powers_of_two() -> None:
    """read: ATen/core/CachingHostAllocator.h at 2.13, PowerOf2Ceil."""
    assert pinned(5 * GIB) == 8 * GIB
    assert pinned(8 * GIB) == 8 * GIB
    assert pinned(0) == 0


@pytest.mark.parametrize("name", preset_names("models"))
@pytest.mark.parametrize("method", ["full", "lora"])
def test_parameters_are_all_that_a_preset_has(name: str, method: str) -> None:
    """Each once; optimizers and ZeRO read this list, and counts are the published ones."""
    preset = load_model(name)
    settings = settings_of(load_recipe(method))
    work = structs.replace(FULL, model=preset.spec, settings=settings)
    every = list(parameters(work))
    assert len({each.name for each in every}) == len(every)
    trained = sum(each.elements for each in every if each.trains)
    assert trained == work.trainable_params
    total = sum(each.elements for each in every)
    assert total == preset.expected_params + work.adapter_params


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama-3.1-70b", "deepseek-v2-lite"])
def test_layers_in_the_middle_gather_alike(
    monkeypatch: pytest.MonkeyPatch, name: str, checkpointing: bool
) -> None:
    """A run of a few layers says what a run of all of them does, in the same order."""
    model = load_model(name).spec
    work = Workload(model=model, settings=settings_of(load_recipe("lora")), compute="bf16")
    zero = zero_section(work, layout("zero3", ranks=4))
    assert zero is not None
    run = partial(gathering.gathered_parameters.function, from_host=False)
    few = run(work, 4, zero, checkpointing=checkpointing, width=2)
    monkeypatch.setattr(gathering, "LAYERS_RUN", model.num_layers)
    every = run(work, 4, zero, checkpointing=checkpointing, width=2)
    assert few.moments == every.moments
    assert few.in_backward == every.in_backward
