"""Recipes against the tables they were read from, and what each plans on three machines."""

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, NothingFitsError, UnknownNameError
from planner.datasets.dataset_presets import data_sets
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.models.model_presets import load_model
from planner.recipes.load_recipe import load_recipe, recipe_names, trained_by
from planner.recipes.recipe import Recipe
from tests.planner.builders import cards

# Data set, epochs, tokens, packed: XTuner v0.1.23, xtuner/configs/chatglm.
RUNS = {
    "alpaca_e3": (["tatsu-lab/alpaca"], 3, 2048, True),
    "alpaca_zh_e3": (["silk-road/alpaca-data-gpt4-chinese"], 3, 2048, True),
    "alpaca_enzh_e3": (
        ["tatsu-lab/alpaca", "silk-road/alpaca-data-gpt4-chinese"],
        *(3, 2048, True),
    ),
    "alpaca_enzh_oasst1_e3": (
        [
            "tatsu-lab/alpaca",
            "silk-road/alpaca-data-gpt4-chinese",
            "timdettmers/openassistant-guanaco",
        ],
        *(3, 2048, True),
    ),
    "arxiv_gentitle_e3": (["./data/arxiv_data.json"], 3, 2048, True),
    "code_alpaca_e3": (["HuggingFaceH4/CodeAlpaca_20K"], 3, 2048, True),
    "colorist_e5": (["burkelibbey/colors"], 5, 2048, True),
    "lawyer_e3": (
        ["./data/CrimeKgAssitant清洗后_52k.json", "./data/训练数据_带法律依据_92k.json"],
        *(3, 2048, True),
    ),
    "medical_e1": (["shibing624/medical"], 1, 2048, True),
    "oasst1_512_e3": (["timdettmers/openassistant-guanaco"], 3, 512, False),
    "oasst1_e3": (["timdettmers/openassistant-guanaco"], 3, 2048, True),
    "open_platypus_e3": (["garage-bAInd/Open-Platypus"], 3, 2048, True),
    "openorca_e1": (["Open-Orca/OpenOrca"], 1, 2048, True),
    "sql_e3": (["b-mc2/sql-create-context"], 3, 2048, True),
    "tiny_codes_e1": (["nampdn-ai/tiny-codes"], 1, 2048, True),
}
MODELS = {"chatglm3_6b": "chatglm3-6b", "chatglm3_6b_base": "chatglm3-6b-base"}
MACHINES = {"24G": (1, 24), "2x24G": (2, 24), "8x80G": (8, 80)}
CUSTOM = ("chatglm3_6b_qlora_custom_sft_e1", "chatglm3_6b_full_custom_pretrain_e1")
WITH_A_MODEL = [name for name in recipe_names() if load_recipe(name).model is not None]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("model", MODELS)
def test_settings_are_xtuners(model: str, run: str) -> None:
    recipe = load_recipe(f"{model}_qlora_{run}")
    sources, epochs, length, packed = RUNS[run]
    assert recipe.model == MODELS[model]
    assert [each.source for each in recipe.data.sources] == sources
    assert (recipe.epochs, recipe.sequence_length, recipe.packing) == (epochs, length, packed)
    assert recipe.method == "qlora"
    assert recipe.adapter is not None
    assert recipe.quantization is not None
    adapter, optimizer = recipe.adapter, recipe.optimizer
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (64, 16, 0.1)
    assert adapter.target_modules == "all-linear"
    assert (recipe.quantization.quant_type, recipe.quantization.double_quant) == ("nf4", True)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.max_grad_norm) == (
        2e-4,
        0,
        1,
    )
    assert (recipe.schedule.kind, recipe.schedule.warmup_ratio) == ("cosine", 0.03)
    assert recipe.written_for is not None
    assert recipe.written_for.micro_batch_size == 1
    assert recipe.global_batch_size == 16
    assert recipe.data.loss_on == "answers"


def test_custom_recipes_are_xtuners() -> None:
    sft, pretrain = (load_recipe(name) for name in CUSTOM)
    assert (sft.method, sft.epochs, sft.packing, sft.global_batch_size) == ("qlora", 1, True, 16)
    assert (pretrain.method, pretrain.epochs, pretrain.packing) == ("full", 1, True)
    assert (sft.optimizer.learning_rate, pretrain.optimizer.learning_rate) == (2e-4, 2e-5)
    assert (sft.data.format, pretrain.data.format) == ("messages", "text")
    assert (sft.data.loss_on, pretrain.data.loss_on) == ("answers", "everything")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_every_recipe_plans_or_says_why_not(name: str, machine: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model is not None
    request = Request(
        model=load_model(recipe.model), cluster=cards(*MACHINES[machine]), recipe=recipe
    )
    if recipe.method == "full" and machine != "8x80G":
        with pytest.raises(NothingFitsError, match="GiB"):
            decide(request)
        return
    chosen = decide(request).chosen
    planned = chosen.workload.settings
    assert planned.global_batch_size % recipe.global_batch_size == 0
    assert (planned.adapter, planned.optimizer) == (recipe.adapter, recipe.optimizer)
    assert (planned.data, planned.packing) == (recipe.data, bool(recipe.packing))


def test_lora_is_qlora_without_its_quantization() -> None:
    qlora = load_recipe("chatglm3_6b_base_qlora_alpaca_zh_e3")
    lora = trained_by(qlora, "lora")
    assert (lora.method, lora.quantization) == ("lora", None)
    same = {"method": "qlora", "quantization": qlora.quantization}
    assert structs.replace(lora, **same) == qlora
    assert trained_by(lora, "qlora") == qlora
    with pytest.raises(InvalidRequestError, match="its learning rate is for qlora"):
        trained_by(qlora, "full")


def test_a_recipe_by_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'chatglm3_6b_qlora_alpaca_zh_e3'"):
        load_recipe("chatglm3_6b_qlora_alpaca_zh_e4")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_its_name(name: str) -> None:
    recipe: Recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.model is None or load_model(recipe.model).name == recipe.model


def test_named_data_are_used() -> None:
    used = {each.source for name in WITH_A_MODEL for each in load_recipe(name).data.sources}
    assert used == {each.source for each in data_sets().values()}
