"""Every preset's shape against the model that transformers builds from it, without memory."""

import json
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from msgspec import structs

from planner.base.preset_files import preset_names
from planner.models.adapter_targets import expert_targets
from planner.models.config_json import (
    ARCHITECTURES,
    NATIVE_CLASSES,
    config_from_spec,
    spec_from_config,
)
from planner.models.model_presets import ModelPreset, load_model
from planner.models.model_spec import ModelSpec
from planner.models.module_names import module_names
from planner.workload.parameters import parameters
from tests.oracle.small_models import SHAPES, build, prepare, workload_of

transformers = pytest.importorskip("transformers")
Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D

PRESETS = [load_model(name) for name in preset_names("models")]
NATIVE = [pytest.param(preset, id=preset.name) for preset in PRESETS if preset.native_class]


def config_of(spec: ModelSpec) -> Any:
    """transformers' configuration of a shape."""
    return transformers.AutoConfig.for_model(**config_from_spec(spec))


class Counts(NamedTuple):
    """What a model that transformers builds has."""

    params: int
    layers: list[list[tuple[str, int, int, bool]]]
    routed: int
    head_is_linear: bool


@cache
def counts(native_class: str, config: str) -> Counts:
    """Of one build for all presets of a shape."""
    spec_config = transformers.AutoConfig.for_model(**json.loads(config))
    with torch.device("meta"):
        model: torch.nn.Module = getattr(transformers, native_class)(spec_config)
    layers = model.get_submodule(module_names(spec_config.model_type).layers)
    return Counts(
        params=sum(parameter.numel() for parameter in model.parameters()),
        layers=[_matrices(layer) for layer in layers.children()],
        routed=routed_params(model),
        head_is_linear=isinstance(model.get_submodule("lm_head"), torch.nn.Linear),
    )


def counts_of(preset: ModelPreset) -> Counts:
    config = json.dumps(config_from_spec(preset.spec), sort_keys=True)
    return counts(str(preset.native_class), config)


@pytest.mark.parametrize("preset", NATIVE)
def test_meta_model(preset: ModelPreset) -> None:
    built = counts_of(preset)
    assert built.params == preset.expected_params
    ours = [
        sorted((x.name, x.in_features, x.out_features, x.bias) for x in preset.spec.linears(kind))
        for kind in preset.spec.layers
    ]
    assert built.layers == ours
    assert built.routed == preset.spec.routed_params
    assert built.head_is_linear


def test_a_type_that_is_built_as_a_class_with_formulas_is_read_by_them() -> None:
    """transformers may build one type's checkpoints as another type's class (InternLM3: Llama)."""
    names: Any = pytest.importorskip("transformers.models.auto.modeling_auto")
    built_as = names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classes = set(NATIVE_CLASSES.values())
    found = {name for name, built in built_as.items() if built in classes}
    assert found - set(ARCHITECTURES) == set()
    assert {"internlm3", "iquestcoder", "gpt-sw3"} <= found


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("internlm3", {}),
        ("internlm3", {"head_dim": None, "num_key_value_heads": 4}),
        ("iquestcoder", {}),
    ],
)
def test_a_type_built_as_llama_has_its_own_defaults(model_type: str, keys: dict[str, Any]) -> None:
    sizes = {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": 128,
        "max_position_embeddings": 256,
        **keys,
    }
    spec = spec_from_config(sizes, Path("config.json"))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**sizes)
        )
    assert NATIVE_CLASSES[spec.model_type] == type(model).__name__
    assert spec.num_params == sum(parameter.numel() for parameter in model.parameters())
    built = model.config
    assert (spec.num_key_value_heads, spec.head_dim) == (built.num_key_value_heads, built.head_dim)


ROUTED = ("Experts", "TopKRouter", "TopkRouter", "Llama4Router", "MoeStatics")
"""Ends of the names of modules that have parameters of routers and routed experts."""


def routed_params(model: torch.nn.Module) -> int:
    """Of routers and routed experts, which are no ``nn.Linear``."""
    return sum(
        parameter.numel()
        for module in model.modules()
        if type(module).__name__.endswith(ROUTED)
        for parameter in module.parameters(recurse=False)
    )


def _matrices(layer: torch.nn.Module) -> list[tuple[str, int, int, bool]]:
    """Name, inputs, outputs and bias of each; GPT-2's are stored the other way round, and a
    router that returns two tensors is none."""
    found = []
    for path, module in layer.named_modules():
        name = path.rpartition(".")[2]
        if type(module).__name__.endswith(ROUTED):
            continue
        if isinstance(module, torch.nn.Linear):
            found.append((name, module.in_features, module.out_features, module.bias is not None))
        elif isinstance(module, Conv1D):
            found.append((name, module.nx, module.nf, True))
    return sorted(found)


@pytest.mark.parametrize(
    "preset", [pytest.param(p, id=p.name) for p in PRESETS if p.native_class is None]
)
def test_remote_code_only(preset: ModelPreset) -> None:
    """They are Llamas, some with one query-key-value matrix: as many parameters."""
    llama = structs.replace(
        preset,
        native_class="LlamaForCausalLM",
        spec=structs.replace(preset.spec, model_type="llama"),
    )
    assert counts_of(llama).params == preset.expected_params


def test_chatglm3_6b() -> None:
    """The number that the model's own index, less its buffers, comes to."""
    [preset] = [preset for preset in PRESETS if preset.name == "chatglm3-6b"]
    assert counts_of(preset).params == 6_243_584_000


@pytest.mark.parametrize("preset", NATIVE)
def test_config_json_round_trip(preset: ModelPreset, tmp_path: Path) -> None:
    """As a program that keeps everything in memory, and as the file on disk, which is sparser; that
    of a text model has nothing of its wrapper."""
    spec = structs.replace(preset.spec, left_out=())
    config = config_of(spec)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    assert spec_from_config(config.to_dict(), path) == spec
    assert spec_from_config(json.loads(path.read_text()), path) == spec


@pytest.mark.parametrize("name", SHAPES)
def test_what_trains_is_what_peft_adapts(name: str) -> None:
    """All matrices that can be named, in every layer that has them, and the experts where they are
    asked for, with the tensors in peft's order."""
    asked: list[Any] = ["all-linear"]
    if expert_targets(SHAPES[name]):
        asked.append(("all-linear", "experts"))
    for targets in asked:
        work = workload_of(SHAPES[name], "lora", "bf16", 0.0, targets)
        model = prepare(build(work.model), work, zero_stage=0)
        trained = [tuple(each.shape) for each in model.parameters() if each.requires_grad]
        assert sum(map(prod, trained)) == work.trainable_params == work.adapter_params
        of_experts = [
            tuple(each.shape)
            for each_name, each in model.named_parameters()
            if each.requires_grad and ".experts." in each_name
        ]
        assert of_experts == [
            each.shape for each in parameters(work) if each.trains and ".experts." in each.name
        ]


def test_every_architecture_has_a_small_model() -> None:
    assert {spec.model_type for spec in SHAPES.values()} == set(NATIVE_CLASSES)


STATED: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "gemma4": {"vision_config": {}, "audio_config": {}},
    "gemma4_unified": {"vision_config": {}, "audio_config": {}},
}
"""What a file must state for its class to make a model, or all that it may hold."""


@pytest.mark.parametrize("model_type", NATIVE_CLASSES)
def test_class_defaults(model_type: str, tmp_path: Path) -> None:
    """A key that a file leaves out has the value that transformers gives it; GPT-2 and its like
    have other names for some of those that a file must have."""
    missing = STATED.get(model_type, {})
    full = transformers.AutoConfig.for_model(model_type, **missing).to_dict()
    required = (
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "text_config",
    )
    sparse = {key: full[key] for key in required if key in full} | missing
    assert spec_from_config(sparse, tmp_path) == spec_from_config(full, tmp_path)
