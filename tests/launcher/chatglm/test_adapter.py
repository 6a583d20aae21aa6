"""LoRA in either layout adds the same to the logits."""

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from launcher.chatglm.command import WeightLayout, convert
from launcher.storage import adapter_files
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.chatglm.original import (
    HIDDEN,
    INNER,
    LAYERS,
    Tensors,
    random_tensors,
    reference_logits,
    write_original,
)

VOCAB = 300
IDS = torch.randint(0, VOCAB, (32,), generator=torch.Generator().manual_seed(2)).tolist()
PREFIX = "base_model.model."
RANK, ALPHA = 4, 6


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return random_tensors(VOCAB)


@pytest.fixture(scope="module")
def native(weights: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatglm")
    write_original(folder / "source", weights)
    convert(folder / "source", folder / "native", "native", StringIO())
    return folder / "native"


def converted(source: Path, target: Path, to: WeightLayout) -> tuple[dict[str, Any], Tensors]:
    convert(source, target, to, StringIO())
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    return config, load_file(target / "adapter_model.safetensors")


def peft_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor([IDS])).logits[0]
    return logits


def merged(weights: Tensors, config: dict[str, Any], adapter: Tensors) -> Tensors:
    """The original's weights with what an adapter in its layout adds, by LoRA's own formula."""
    result = dict(weights)
    for name, first in adapter.items():
        if ".lora_A." in name:
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            kind = module.rpartition(".")[2]
            rank = config["rank_pattern"].get(kind, config["r"])
            alpha = config["alpha_pattern"].get(kind, config["lora_alpha"])
            scale = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
            assert first.shape[0] == rank
            second = adapter[name.replace("lora_A", "lora_B")]
            result[f"{module}.weight"] = weights[f"{module}.weight"] + scale * second @ first
    return result


def trained_adapter(native: Path, target: Path, **settings: Any) -> Any:
    """As if trained: peft leaves B at zero."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)
    settings = {"target_modules": "all-linear", **settings}
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, **settings)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(target)
    return model


@pytest.mark.parametrize(
    ("settings", "fused_rank"),
    [
        ({}, 3 * RANK),
        ({"use_rslora": True}, 3 * RANK),
        ({"target_modules": ["q_proj", "v_proj"]}, 2 * RANK),
        ({"target_modules": ["k_proj", "gate_up_proj"]}, RANK),
        ({"target_modules": ["o_proj", "down_proj"]}, None),
    ],
)
def test_towards_chatglm_and_back(
    settings: dict[str, Any], fused_rank: int | None, weights: Tensors, native: Path, tmp_path: Path
) -> None:
    model = trained_adapter(native, tmp_path / "adapter", **settings)
    expected = peft_logits(model)
    assert (expected - reference_logits(weights, IDS)).abs().max() > 0.1

    config, adapter = converted(tmp_path / "adapter", tmp_path / "fused", "chatglm")
    name = f"{PREFIX}transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight"
    assert (adapter[name].shape[0] if name in adapter else None) == fused_rank
    logits = reference_logits(merged(weights, config, adapter), IDS)
    assert (logits - expected).abs().max() <= 1e-5
    assert config["base_model_name_or_path"] == str(native.parent / "source")


def test_towards_glm(weights: Tensors, native: Path, tmp_path: Path) -> None:
    """An adapter as XTuner and others have written them for ChatGLM3."""
    random = torch.Generator().manual_seed(4)
    sizes = {
        "self_attention.query_key_value": (128, HIDDEN),
        "self_attention.dense": (HIDDEN, HIDDEN),
        "mlp.dense_h_to_4h": (2 * INNER, HIDDEN),
        "mlp.dense_4h_to_h": (HIDDEN, INNER),
    }
    adapter: Tensors = {}
    for layer in range(LAYERS):
        for module, (rows, columns) in sizes.items():
            name = f"{PREFIX}transformer.encoder.layers.{layer}.{module}"
            adapter[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=random) * 0.2
            adapter[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=random) * 0.1
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "base_model_name_or_path": "THUDM/chatglm3-6b",
        "target_modules": [name.rpartition(".")[2] for name in sizes],
    }
    source = tmp_path / "adapter"
    source.mkdir()
    save_file(adapter, source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")

    split, tensors = converted(source, tmp_path / "split", "native")
    assert len(split["target_modules"]) == 6
    native_layer = f"{PREFIX}model.layers.1.self_attn."
    fused = f"{PREFIX}transformer.encoder.layers.1.self_attention.query_key_value"
    shares = [tensors[f"{native_layer}{part}_proj.lora_B.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(shares), adapter[f"{fused}.lora_B.weight"])
    for part in "qkv":
        assert torch.equal(
            tensors[f"{native_layer}{part}_proj.lora_A.weight"], adapter[f"{fused}.lora_A.weight"]
        )
    base = AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)
    logits = peft_logits(PeftModel.from_pretrained(base, tmp_path / "split"))
    expected = reference_logits(merged(weights, config, adapter), IDS)
    assert (logits - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora is set. Merge it into a model first"),
        ({"target_modules": ["q_proj"]}, "adapts the query but neither key nor value"),
        ({"modules_to_save": ["norm"]}, "does not exist in the other layout"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is set"),
    ],
)
def test_what_has_no_other_form(
    settings: dict[str, Any], message: str, native: Path, tmp_path: Path
) -> None:
    trained_adapter(native, tmp_path / "adapter", **settings)
    with pytest.raises(InvalidFileError, match=message):
        converted(tmp_path / "adapter", tmp_path / "fused", "chatglm")
    assert not (tmp_path / "fused").exists()


def test_an_adapter_that_is_in_that_layout(native: Path, tmp_path: Path) -> None:
    trained_adapter(native, tmp_path / "adapter")
    with pytest.raises(InvalidRequestError, match="is already an adapter of that layout"):
        converted(tmp_path / "adapter", tmp_path / "other", "native")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(InvalidFileError, match=r"has no adapter_model.safetensors"):
        converted(tmp_path / "adapter", tmp_path / "other", "chatglm")


def test_files_have_pefts_names() -> None:
    from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

    assert (adapter_files.CONFIG, adapter_files.WEIGHTS) == (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
