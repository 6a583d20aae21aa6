"""Checkpoints that are stored quantized are refused wherever they say it, in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InvalidFileError
from planner.base.preset_files import Source
from planner.cli.model_option import load_model_dir
from planner.models.config_json import config_from_spec, spec_from_config
from planner.models.model_presets import load_model
from planner.models.stored_quantization import refuse_quantized

AWQ = {"quant_method": "awq", "bits": 4}
PATH = Path("config.json")


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "lfm2", "quantization_config": AWQ},
        {"model_type": "qwen3_5", "text_config": {"quantization_config": AWQ}},
        {"model_type": "llama", "compression_config": AWQ},
        {"model_type": "lfm2", "quantization_config": {"quant_method": "mxfp4"}},
        {"model_type": "lfm2", "quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_traced_type_or_a_wrapper_is_refused_as_one_with_formulas(
    content: dict[str, Any],
) -> None:
    with pytest.raises(InvalidFileError, match=r"its weights are quantized .*16-bit original, "):
        spec_from_config(content, PATH)


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}},
        {"model_type": "llama", "quantization_config": None, "text_config": None},
    ],
)
def test_what_the_launcher_undoes_or_what_says_nothing_is_left(content: dict[str, Any]) -> None:
    refuse_quantized(content, PATH)


@pytest.mark.parametrize("kept", ["/somewhere/Llama-3.2-1B/", "meta-llama/Llama-3.2-1B"])
def test_a_file_beside_the_configuration_says_it_too(kept: str, tmp_path: Path) -> None:
    folder = _llama(tmp_path / "Llama-3.2-1B-FP8", {"_name_or_path": kept})
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(beside))
    with pytest.raises(InvalidFileError) as refused:
        load_model_dir(folder)
    said = str(refused.value)
    assert "hf_quant_config.json: quantization: its weights are quantized (FP8)" in said
    assert "the 16-bit original Llama-3.2-1B, which" in said


def test_a_file_that_names_no_format_of_the_weights_is_no_reason(tmp_path: Path) -> None:
    folder = _llama(tmp_path / "llama", {})
    beside = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(beside))
    assert load_model_dir(folder).source == Source(
        title="config.json", url=str(folder / "config.json")
    )


def _llama(folder: Path, more: dict[str, Any]) -> Path:
    folder.mkdir()
    content = config_from_spec(load_model("llama-3.2-1b").spec) | more
    (folder / "config.json").write_text(json.dumps(content))
    return folder
