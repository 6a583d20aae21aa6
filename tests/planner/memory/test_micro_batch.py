"""One pass of a few layers against the pass of all of them."""

from typing import Any

import pytest
from msgspec import structs

from planner.forward.model_pass import ModelPass, passed_layers
from planner.memory.micro_batch import micro_batch
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.vocabulary import Method
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import numerics
from planner.workload.settings import settings_of
from planner.workload.workload import Batch, Workload

BATCH = Batch(micro_batch_size=1, sequence_length=256, device="cuda")


def largest_of_all_layers(work: Workload, kinds: Any, checkpointing: int) -> int:
    """Bytes at the largest moment of a pass through every layer of the model."""
    layers = passed_layers(work.model, checkpointing)
    run = ModelPass(work, BATCH, kinds, layers=layers, sink="keep")
    level = largest = 0
    for num_bytes, *_ in run.tape.log:
        level += num_bytes
        largest = max(largest, level)
    return largest


@pytest.mark.parametrize("checkpointing", [0, 1])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("in_proj_qkv", "down_proj")])
def test_layers_before_the_first_adapter_keep_nothing(
    targets: tuple[str, ...], checkpointing: int
) -> None:
    """Of Qwen3.5 only some layers have the named matrices: those before the first one make nothing
    that needs a gradient, all behind it do."""
    spec = structs.replace(load_model("qwen3.5-0.8b").spec, num_layers=8)
    hold_to_all_layers(spec, targets, checkpointing)


def test_a_residual_stream_that_experts_widen_is_narrow_before_them() -> None:
    """Nemotron-3-Nano's is in 16 bit up to its first experts, then in fp32."""
    spec = structs.replace(load_model("nemotron-3-nano-30b-a3b").spec, num_layers=8)
    hold_to_all_layers(spec, ("in_proj", "q_proj", "v_proj"), 2, method="qlora")


def test_experts_may_stand_alone_where_others_have_a_shared_one() -> None:
    spec = load_model("ernie-4.5-21b-a3b-base-pt").spec
    assert spec.experts is not None
    alone = structs.replace(spec.experts, shared_intermediate_size=0)
    hold_to_all_layers(structs.replace(spec, num_layers=3, experts=alone), ("q_proj",), 0)


def hold_to_all_layers(
    spec: ModelSpec, targets: tuple[str, ...], checkpointing: int, *, method: Method = "lora"
) -> None:
    """Compare the laid-out pass with the pass of all layers."""
    settings = settings_of(load_recipe(method))
    assert settings.adapter is not None
    adapter = structs.replace(settings.adapter, target_modules=targets)
    work = Workload(model=spec, settings=structs.replace(settings, adapter=adapter), compute="bf16")
    kinds = numerics(method=method, compute="bf16", zero_stage=0)
    found = micro_batch(work, BATCH, kinds, checkpointing=checkpointing, sink="keep")
    laid_out = max(found.forward.total(), found.backward.total())
    assert laid_out == pytest.approx(largest_of_all_layers(work, kinds, checkpointing), rel=1e-6)
