"""Models without formulas: planned from traces of the real model, end to end."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from msgspec import structs

from launcher.rehearsal import trace_service
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.trace_service import shape
from planner.base.errors import InvalidRequestError, UserError
from planner.base.phrases import from_data
from planner.base.preset_files import preset_names
from planner.decision.request_checks import check
from planner.decision.requested_workload import allowed_series, workload
from planner.memory.expert_loading import loading_bytes, stacked_params
from planner.models.config_json import config_from_spec
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import traced_spec
from planner.recipes.load_recipe import load_recipe
from planner.training_stack.stack_process import StackProcess
from planner.workload.dtypes import numerics
from planner.workload.settings import settings_of
from planner.workload.workload import Workload
from tests.launcher.launching import launch
from tests.planner.builders import cards, request
from tests.planner.cli.test_plan_command import error_of, plan

HYBRID = {
    "model_type": "lfm2",
    "num_hidden_layers": 2,
    "layer_types": ["conv", "full_attention"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}
"""Convolutions beside attention."""
PLAIN = {key: value for key, value in HYBRID.items() if key != "layer_types"} | {
    "model_type": "helium",
    "head_dim": 16,
}
"""A model without formulas."""


MIXTURE = {
    "model_type": "ernie4_5_moe",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "moe_num_experts": 8,
    "moe_k": 2,
    "moe_layer_start_index": 0,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}


def write_config(directory: Path, content: dict[str, Any]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model_type": "nonesuch"}, "does not know the architecture 'nonesuch'"),
        ({"model_type": "mamba", "hidden_size": -64}, "negative dimension -64"),
        ({"model_type": "mamba", "num_hidden_layers": 10**6}, "it has 1,000,000 layers, and at mo"),
    ],
)
def test_what_cannot_be_built_is_refused_before_the_rest_of_the_stack_is_imported(
    content: dict[str, Any], reason: str
) -> None:
    source = (
        "import json, sys; from launcher.rehearsal import trace_service; "
        f"print(json.dumps(trace_service.answer({{'shape': {content!r}}})['error'])); "
        "print(json.dumps([name for name in ('trl', 'peft', 'deepspeed') if name in sys.modules]))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=300
    )
    error, imported = map(json.loads, asked.stdout.splitlines()[-2:])
    assert reason in from_data(error)
    assert imported == []


def test_a_model_that_takes_too_long_to_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_service, "MOST_BUILDING_S", 0.05)
    with pytest.raises(UserError, match="building it takes more than"):
        shape({"model_type": "mamba", "num_hidden_layers": 2_000})


def test_a_model_that_is_given_up_changes_nothing_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit may come where gradients are off, and before they are on again."""

    def build(*_given: object, **_settings: object) -> None:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.bfloat16)
        while True:
            pass

    monkeypatch.setattr(trace_service, "MOST_BUILDING_S", 0.05)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", build)
    with pytest.raises(UserError, match="building it takes more than"):
        shape({"model_type": "llama"})
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ["chatglm3-6b-base", "llama-3.2-1b"])
def test_the_shape_is_the_one_that_formulas_count(name: str) -> None:
    spec: ModelSpec = load_model(name).spec
    with quiet_libraries():
        answer = shape(config_from_spec(spec))
    found = traced_spec(answer, spec.model_type, "{}")
    assert found.num_params == spec.num_params
    assert found.matrix_params == spec.matrix_params
    assert found.unquantized_params == spec.unquantized_params
    assert found.largest_layer_params == spec.largest_layer_params
    assert (found.attention, found.loss) == ("sdpa", "fused")


@pytest.mark.parametrize(
    "name",
    [name for name in preset_names("models") if load_model(name).spec.experts is not None],
)
def test_experts_are_stacked_where_transformers_own_mapping_says_so(name: str) -> None:
    spec = structs.replace(load_model(name).spec, num_layers=4)
    recipe = load_recipe("lora")
    work = Workload(model=spec, settings=settings_of(recipe), compute="bf16")
    with quiet_libraries():
        answer = shape(config_from_spec(spec))
    assert answer["stacked_params"] == stacked_params(work)


def test_a_traced_mixture_stacks_its_experts_too() -> None:
    with quiet_libraries():
        config = transformers.AutoConfig.for_model(**MIXTURE).to_dict()
        found = traced_spec(shape(config), "ernie4_5_moe", "{}")
    assert found.stacked_params == 8 * 2 * 32 * 64
    work = Workload(model=found, settings=settings_of(load_recipe("lora")), compute="bf16")
    kinds = numerics(method="lora", compute="bf16", zero_stage=0)
    assert loading_bytes(work, kinds) == 2 * found.stacked_params


def test_code_of_a_checkpoint_is_never_run_and_never_asked_about() -> None:
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_of_a_stranger.Model"}}
    with closing(StackProcess(trace_service.__name__)) as process:
        unknown = process.ask({"shape": {"model_type": "qwen2_5_vl", **auto_map}})
        native = process.ask({"shape": HYBRID | auto_map})
    assert "no causal language model of type 'qwen2_5_vl'" in from_data(unknown["error"])
    assert native["shape"]["native_class"] == "Lfm2ForCausalLM"


def test_layers_that_hold_the_same_are_of_one_kind() -> None:
    with quiet_libraries():
        config = transformers.AutoConfig.for_model(**HYBRID | {"num_hidden_layers": 2}).to_dict()
        found = traced_spec(shape(config), "lfm2", "{}")
    assert [count for _, count in found.kinds.items()] == [1, 1]
    assert found.num_params > found.matrix_params > 0


def shape_of(model_type: str, **keys: Any) -> dict[str, Any]:
    config: Any = transformers.AutoConfig.for_model(model_type, **keys)
    with quiet_libraries():
        return shape({name: one for name, one in config.to_dict().items() if one is not None})


@pytest.mark.parametrize(
    ("model_type", "loss"), [("bert", "standard"), ("gpt_neo", "fused"), ("mllama", "standard")]
)
def test_the_fused_head_is_for_classes_that_multiply_the_last_state_alone(
    model_type: str, loss: str
) -> None:
    """trl's head leaves BERT's transform out, so that another model would be trained; Mllama's
    backbone is not where it looks for it."""
    assert shape_of(model_type)["loss"] == loss


def test_positions_are_known_by_the_names_that_a_configuration_gives_them() -> None:
    assert shape_of("openai-gpt", n_layer=1, n_positions=128)["max_position_embeddings"] == 128


def test_a_matrix_that_multiplies_groups_gets_no_adapter() -> None:
    assert "o_a_proj" in shape_of("deepseek_v4", num_hidden_layers=2)["unadaptable"]


def test_what_transformers_cannot_recompute_is_planned_with_its_activations() -> None:
    spec = traced_spec(shape_of("ctrl", n_layer=2), "ctrl", "{}")
    asked = request(cards(2, 24))
    open_request = structs.replace(asked, model=structs.replace(asked.model, spec=spec))
    found = [*allowed_series(open_request, workload(open_request, "lora"))]
    assert {each.checkpointing for each in found} == {0}
    check(open_request)
    with pytest.raises(InvalidRequestError, match="cannot recompute activations of ctrl: keep"):
        check(structs.replace(open_request, activation_checkpointing=True))


def test_what_is_planned_is_what_a_rehearsal_traces(tmp_path: Path) -> None:
    model = write_config(tmp_path / "plain", PLAIN)
    sizes = ("--global-batch-size", "2", "--micro-batch-size", "2", "--sequence-length", "64")
    pinned = ("--method", "lora", "--activation-checkpointing", *sizes)
    result = plan("--model", str(model), "--gpus", "24G", *pinned, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no formulas for 'helium'" in result.stderr
    assert "traced steps" in result.stdout
    rehearsed = launch(tmp_path, "--rehearse", "--json")
    assert rehearsed.code == 0, rehearsed.errors
    document = json.loads(rehearsed.output)
    for phase in ("forward", "backward"):
        for part in ("activations", "loss"):
            predicted, traced = (
                document[side]["phases"][phase].get(part, 0) for side in ("predicted", "traced")
            )
            assert predicted == traced


@pytest.mark.long
def test_either_loss_is_traced_and_what_cannot_be_traced_leaves_other_methods(
    tmp_path: Path,
) -> None:
    from tests.launcher.rehearsal.test_traced_adapters import DECODER, GEMMA_3

    sizes = ("--global-batch-size", "2", "--micro-batch-size", "2", "--sequence-length", "64")
    on = ("--gpus", "24G", "--activation-checkpointing", *sizes)
    tower = str(write_config(tmp_path / "tower", GEMMA_3))
    chosen = plan("--model", tower, *on, "--loss", "standard", "--json", cwd=tmp_path)
    assert chosen.returncode == 0, chosen.stderr
    document = json.loads(chosen.stdout)
    assert (document["plan"]["method"], document["plan"]["loss"]) == ("lora", "standard")
    refused = plan("--model", tower, *on, "--method", "full", cwd=tmp_path)
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert "model.vision_tower, model.multi_modal_projector no gradients" in last
    text = DECODER | {"model_type": "gemma3_text", "vocab_size": 3_000_000}
    wide = GEMMA_3 | {"text_config": text}
    small = str(write_config(tmp_path / "wide", wide))
    sized = ("--method", "auto", *sizes, "--activation-checkpointing", "--json")
    leaner = plan("--model", small, "--gpus", "2G", *sized, cwd=tmp_path)
    assert leaner.returncode == 0, leaner.stderr
    assert json.loads(leaner.stdout)["plan"]["method"] in {"lora", "qlora"}


def test_an_architecture_that_transformers_does_not_know(tmp_path: Path) -> None:
    model = write_config(tmp_path / "unheard-of", {"model_type": "unheard-of"})
    message = error_of("--model", str(model), "--gpus", "24G", cwd=tmp_path)
    assert "does not know the architecture 'unheard-of'" in message
