"""Every model file: it reads, it is named after itself, and its count is the published one."""

import pytest

from planner.base.preset_files import ROOT, preset_names
from planner.models.config_json import NATIVE_CLASSES
from planner.models.model_presets import load_model

NAMES = preset_names("models")


def test_the_models_people_ask_for_are_there() -> None:
    wanted = {
        *("chatglm3-6b-base", "chatglm3-6b", "chatglm2-6b", "glm-4-9b"),
        *("llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3.1-8b", "llama-3.1-70b"),
        *("llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "smollm2-135m"),
        *(f"qwen2.5-{size}b" for size in ("0.5", "1.5", "3", "7", "14", "32", "72")),
        *(f"qwen2.5-{size}b-instruct" for size in ("0.5", "1.5", "3", "7", "14", "32", "72")),
        *(f"qwen2.5-coder-{size}b" for size in ("0.5", "1.5", "3", "7", "14", "32")),
        *("llama-3-8b", "llama-3-8b-instruct", "llama-3.1-8b-instruct", "llama-3.3-70b-instruct"),
        *("codellama-7b", "tinyllama-1.1b", "smollm2-360m", "smollm2-1.7b", "mistral-nemo-12b"),
        *(f"qwen3-{size}b" for size in ("0.6", "1.7", "4", "8", "14", "32")),
        *("phi-3-mini-4k-instruct", "phi-4", "phi-4-mini-instruct", "glm-4-9b-0414"),
        *("internlm2-7b", "internlm2-20b", "baichuan2-7b", "baichuan2-13b", "yi-6b", "yi-34b"),
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_model_file(name: str) -> None:
    preset = load_model(name)
    assert preset.name == name == name.lower()
    assert preset.spec.num_params == preset.expected_params
    assert preset.native_class == NATIVE_CLASSES.get(preset.spec.model_type)
    assert preset.hub_id.count("/") == 1
    assert preset.hub_id in preset.source.url
    assert preset.spec.rotary_fraction * preset.spec.head_dim % 2 == 0


def test_no_two_presets_are_one_repository() -> None:
    hub_ids = [load_model(name).hub_id for name in NAMES]
    assert len(set(hub_ids)) == len(hub_ids)


def test_every_file_is_a_preset() -> None:
    assert {path.suffix for path in (ROOT / "models").iterdir()} == {".yaml"}
