"""What ``plan`` refuses as an option, ``launch`` refuses as a key of a plan, in the same words."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from launcher.lifecycle.plan_rules import require_possible
from launcher.run.read_plan import plan_text, read_plan
from planner.base.errors import UserError
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.models.config_json import spec_from_config
from planner.models.model_presets import load_model
from planner.recipes.load_recipe import load_recipe
from tests.planner.models.test_config_json import GEMMA_4

BOTH: list[tuple[str, str, dict[str, Any], list[str], str]] = [
    (
        *("smollm2-135m", "rtx-4090"),
        {"sequence_length": 8193},
        ["batch.sequence_length=8193"],
        " 8193 is beyond the 8,192 positions of smollm2-135m: choose at most 8192",
    ),
    (
        *("smollm2-135m", "rtx-4090"),
        {"checkpoint_every": 31},
        ["activation_checkpointing=true", "checkpoint_every=31"],
        " 31 is beyond the 30 layers of smollm2-135m: choose at most 30",
    ),
    (
        *("smollm2-135m", "rtx-4090"),
        {"zero_stage": 2},
        ["parallel.strategy=zero2", "parallel.zero_stage=2", "parallel.zero=ZERO"],
        " 2 shards over several GPUs and there is one: ",
    ),
    (
        *("smollm2-135m", "t4"),
        {"precision": "bf16"},
        ["precision.compute=bf16"],
        " bf16 needs compute capability 8.0, which Tesla T4 does not have: take fp16, or ",
    ),
    (
        *("smollm2-135m", "cpu"),
        {"precision": "fp16"},
        ["precision.compute=fp16"],
        " fp16 needs a GPU: accelerate refuses it on the CPU. Take fp32, or ",
    ),
    (
        *("smollm2-135m", "cpu"),
        {"offload": "optimizer"},
        [
            *("parallel.strategy=zero2", "parallel.zero_stage=2", "parallel.zero=ZERO"),
            "parallel.offload=optimizer",
        ],
        " optimizer moves what a GPU holds to host memory, and there is no GPU: ",
    ),
    (
        *("smollm2-135m", "cpu"),
        {"activation_offloading": True},
        ["activation_checkpointing=true", "activation_offloading=true"],
        " has one memory for both: ",
    ),
    (
        *("olmoe-1b-7b", "h100-sxm-80gb"),
        {"tiled_mlp": True},
        ["tiled_mlp=true"],
        " cuts the tokens of an MLP, and the layers of olmoe have experts, or an MLP that also ",
    ),
    (
        *("gemma-2-2b", "rtx-4090"),
        {"attention": "sdpa"},
        ["attention=sdpa"],
        " sdpa cannot be combined with gemma2, which is planned only with eager: ",
    ),
    (
        *("smollm2-135m", "rtx-4090"),
        {"method": "lora", "lora_targets": ("q_proj", "v_prj")},
        ["adapter.target_modules=[q_proj, v_prj]"],
        "no matrix of smollm2-135m is named 'v_prj'. Did you mean 'v_proj'?",
    ),
    (
        *("deepseek-v2-lite", "h100-sxm-80gb"),
        {"method": "lora", "lora_targets": ("q_proj", "gate_proj")},
        ["adapter.target_modules=[q_proj, gate_proj]"],
        "peft adapts the fused experts of deepseek-v2-lite for gate_proj, which is not planned",
    ),
    (
        *("smollm2-135m", "rtx-4090"),
        {"method": "lora", "lora_rank": 256, "lora_init": "olora"},
        ["adapter.init=olora", "adapter.rank=256"],
        "adapters that begin as olora have at most the rank of their matrix, and k_proj of",
    ),
    (
        *("olmoe-1b-7b", "h100-sxm-80gb"),
        {"method": "lora", "lora_targets": ("q_proj", "experts.down")},
        ["adapter.target_parameters=[experts.down]", "adapter.dropout=0"],
        "no tensor of the experts of olmoe-1b-7b is named 'experts.down'. Did you mean",
    ),
    (
        *("smollm2-135m", "rtx-4090"),
        {"method": "lora", "lora_targets": ("all-linear", "experts.down_proj")},
        ["adapter.target_parameters=[experts.down_proj]", "adapter.dropout=0"],
        "smollm2-135m has no routed experts that adapters are planned on: leave experts.down_proj",
    ),
    (
        *("olmoe-1b-7b", "h100-sxm-80gb"),
        {"method": "lora", "lora_targets": ("all-linear", "experts"), "lora_dropout": 0.1},
        ["adapter.target_parameters=[experts.down_proj]", "adapter.dropout=0.1"],
        "peft adapts routed experts without dropout",
    ),
]
ZERO = (
    "{reduce_bucket_size: 1000, allgather_bucket_size: 1000, prefetch_bucket_size: 1000, "
    "max_live_parameters: 1000, param_persistence_threshold: 1000, sub_group_size: 1000}"
)


@pytest.mark.parametrize(("model", "gpus", "options", "settings", "words"), BOTH)
def test_both_commands_refuse(
    model: str, gpus: str, options: dict[str, Any], settings: list[str], words: str, tmp_path: Path
) -> None:
    request = Request(model=load_model(model), cluster=parse_gpus(gpus))
    with pytest.raises(UserError) as refused:
        decide(structs.replace(request, **options))
    assert words in str(refused.value)

    method = options.get("method")
    path = tmp_path / "plan.yaml"
    path.write_text(
        plan_text(plan_of(decide(structs.replace(request, method=method)))), encoding="utf-8"
    )
    require_possible(read_plan(path))
    settings = [setting.replace("ZERO", ZERO) for setting in settings]
    with pytest.raises(UserError) as refused:
        require_possible(read_plan(path, settings=settings))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_without_formulas_has_the_positions_of_its_configuration(tmp_path: Path) -> None:
    plan = plan_of(
        decide(Request(model=load_model("smollm2-135m"), cluster=parse_gpus("rtx-4090")))
    )
    path = tmp_path / "plan.yaml"
    path.write_text(plan_text(plan), encoding="utf-8")
    settings = ["model.config.model_type=unheard_of", "batch.sequence_length=8193"]
    with pytest.raises(UserError, match="beyond the 8,192 positions"):
        require_possible(read_plan(path, settings=settings))


def test_a_recipes_names_that_the_model_lacks_are_not_in_the_plan() -> None:
    model, cluster = load_model("smollm2-135m"), parse_gpus("rtx-4090")
    recipe = load_recipe("lora")
    assert recipe.adapter is not None
    adapter = structs.replace(recipe.adapter, target_modules=("q_proj", "query_key_value"))
    elsewhere = structs.replace(recipe, adapter=adapter)
    plan = plan_of(decide(Request(model=model, cluster=cluster, recipe=elsewhere)))
    assert plan.adapter is not None
    assert plan.adapter.target_modules == ("q_proj",)
    require_possible(plan)


def test_peft_has_no_names_that_vera_leaves_out() -> None:
    """So it would adapt models of images and of sound, too."""
    model, cluster = load_model("smollm2-135m"), parse_gpus("rtx-4090")
    wrapper = {"model_type": "gemma4", "text_config": GEMMA_4, "vision_config": {}}
    seeing = structs.replace(model, spec=spec_from_config(wrapper, Path("config.json")))
    request = Request(model=model, cluster=cluster, recipe=load_recipe("vera"))
    assert decide(request).chosen.workload.trains_vectors
    with pytest.raises(UserError, match="VeRA is planned for text models with formulas, and smol"):
        decide(structs.replace(request, model=seeing))
